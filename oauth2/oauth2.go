// Package oauth2 makes a golang.org/x/oauth2 token source of a user's session,
// for API clients that can be given nothing else.
//
// If a client takes an *http.Client, give it session.Service.Client or HTTPClient
// instead. They notice at once when the user logs out, replace a token that a
// backend refuses and send the request again, and do not take the token to another
// host by a redirect. An oauth2.NewClient does none of that: it keeps a token until
// 10 seconds before its expiry, passes a 401 on, and adds the token to whatever
// request comes.
package oauth2

import (
	"context"
	"time"

	"golang.org/x/oauth2"

	"github.com/mana/session"
)

const (
	// Caches of golang.org/x/oauth2 use a token until 10 seconds before its
	// expiry. With this much left they ask again after a second, which costs a
	// look-up, and so notice a logout within a second.
	shownLife = 11 * time.Second

	// callLimit bounds a call of Token, which has no context of its own.
	callLimit = 15 * time.Second
)

// TokenSource returns a token source for the user. Its Token returns the errors of
// session.Service.Token, takes 15 seconds at most, and fails once ctx has ended. It
// is safe for concurrent use.
//
// The Expiry of its tokens is 11 seconds ahead and not the token's own: see
// oauth2.ReuseTokenSource, through which oauth2.NewClient takes every token.
func TokenSource(ctx context.Context, svc *session.Service, userID string) oauth2.TokenSource {
	return &source{ctx, svc, userID}
}

type source struct {
	ctx    context.Context // Token has none of its own
	svc    *session.Service
	userID string
}

// Token implements oauth2.TokenSource.
func (s *source) Token() (*oauth2.Token, error) {
	ctx, cancel := context.WithTimeout(s.ctx, callLimit)
	defer cancel()
	token, err := s.svc.Token(ctx, s.userID)
	if err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: token, TokenType: "Bearer", Expiry: time.Now().Add(shownLife)}, nil
}
