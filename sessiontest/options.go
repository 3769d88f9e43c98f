package sessiontest

import "github.com/mana/session"

// Options are those of a Service that uses the server: its URL, client and service
// key, and no limit on logins. What is appended to them wins.
//
//	svc, err := session.New(append(auth.Options(), session.WithStore(store))...)
func (s *AuthServer) Options() []session.Option {
	s.mu.Lock()
	defer s.mu.Unlock()
	opts := []session.Option{
		session.WithAuthURL(s.URL),
		session.WithHTTPClient(s.Client()),
		session.WithServiceKey(s.serviceKey),
		session.WithLoginLimit(0, 0),
	}
	if s.linkPath != DefaultLinkPath {
		opts = append(opts, session.WithLinkPath(s.linkPath))
	}
	return opts
}
