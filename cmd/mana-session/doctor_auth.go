package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// examineAuth asks the auth server what its link check says of a user without a link,
// which tries URL, prefix and service key at once; without a key, for its public keys.
func (c *config) examineAuth(ctx context.Context) []finding {
	base := c.authServer()
	key, _ := c.serviceKey() // open has read it, too
	var found []finding
	if plainText(base) {
		found = append(found, finding{Check: "auth URL", Level: warning, Found: base + " is not encrypted: passwords and tokens can be read on the way",
			Remedy: "Use https."})
	}
	target := base + "/api/v1/auth/jwks"
	if key != "" {
		target = base + strings.TrimRight(c.linkPath, "/") + "/matrix-user-links/check/" + url.QueryEscape(probeUser)
	} else {
		found = append(found, finding{Check: "service key", Level: warning, Found: "there is none: the SSO-Link is off, and only a login begins a session",
			Remedy: "If the bots have one, set MANA_CORE_SERVICE_KEY as they do, or --service-key-file."})
	}
	answer, err := ask(ctx, target, key)
	if err != nil {
		f := finding{Check: "auth server", Level: fault, code: exitAuth, Found: base + ": " + plain(err),
			Remedy: "Is it running, and is MANA_CORE_AUTH_URL what the bots have? Sessions stay, and tokens are served while they live."}
		switch text := err.Error(); {
		case strings.Contains(text, "x509:"):
			f.Remedy = "This machine does not trust the server's certificate: it has expired, is for another name, or its CA is missing here, as it may be where the bots run."
		case strings.Contains(text, "HTTP response to HTTPS"):
			f.Remedy = "There is no TLS at that address: the URL begins with http:// then, or has another port."
		}
		return append(found, f)
	}
	found = append(found, answer.judge(base, key != ""))
	if !answer.date.IsZero() {
		found = append(found, answer.judgeClock())
	}
	return found
}

// plainText reports whether a URL leaves this machine unencrypted.
func plainText(base string) bool {
	u, err := url.Parse(base)
	if err != nil || u.Scheme == "https" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}

// authAnswer is what of an answer counts here.
type authAnswer struct {
	status  int
	message string // the server's own, if it is in its form
	linked  *bool
	keys    bool // there are public keys in it

	date    time.Time
	asked   time.Time
	latency time.Duration
}

// ask makes one call, and follows no redirect: the key is for this server alone.
func ask(ctx context.Context, target, key string) (a authAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return a, errors.New("not a URL")
	}
	if key != "" {
		req.Header.Set("X-Service-Key", key)
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	a.asked = time.Now()
	resp, err := client.Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok { // which quotes the URL
			err = wrapped.Err
		}
		return a, err
	}
	defer resp.Body.Close()
	a.latency, a.status = time.Since(a.asked), resp.StatusCode
	a.date, _ = http.ParseTime(resp.Header.Get("Date"))
	const most = 64 << 10
	text, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return a, err
	}
	var body struct {
		Message string            `json:"message"`
		Linked  *bool             `json:"linked"`
		Keys    []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(text, &body) == nil {
		a.message, a.linked, a.keys = body.Message, body.Linked, len(body.Keys) > 0
	}
	if key != "" {
		a.message = strings.ReplaceAll(a.message, key, "[redacted]")
	}
	a.message = a.message[:min(len(a.message), 200)]
	return a, nil
}

func (a authAnswer) judge(base string, withKey bool) finding {
	f := finding{Check: "auth server", Level: fault, code: exitAuth, Found: fmt.Sprintf("%s answered %d", base, a.status)}
	if a.message != "" {
		f.Found += ": " + a.message
	}
	switch {
	case a.status == http.StatusOK && withKey && a.linked != nil:
		return finding{Check: "auth server", Level: fine, Found: fmt.Sprintf("%s takes the service key, in %.0f ms", base, a.latency.Seconds()*1000)}
	case a.status == http.StatusOK && !withKey && a.keys:
		return finding{Check: "auth server", Level: fine, Found: fmt.Sprintf("%s answers, in %.0f ms", base, a.latency.Seconds()*1000)}
	case a.status == http.StatusOK:
		f.Remedy = "That is not what the auth server says: the URL may be that of something else, or its database is down."
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		f.Check, f.Remedy = "service key", "The service key is not the server's: set MANA_CORE_SERVICE_KEY anew, in all bots. No session ends over it."
	case a.status == http.StatusNotFound:
		f.Remedy = "The server has no such route: see whether URL and link prefix (--link-path, WithLinkPath) are those of this deployment."
	case a.status >= 300 && a.status < 400:
		f.Remedy = "Redirects are not followed, so that keys and passwords stay with this host: name the URL that it leads to, often https instead of http."
	case a.status == http.StatusTooManyRequests:
		f.Level, f.Remedy = warning, "This address has asked too often: bots behind it wait, too."
	default:
		f.Remedy = "The server, its database or a gateway in front of it is down. Sessions stay, and tokens are served while they live."
	}
	return f
}

// tooFar is how far the auth server's clock may be from ours: what is handed out
// lasts for 60 s by ours.
const tooFar = 30 * time.Second

func (a authAnswer) judgeClock() finding {
	// The header is in whole seconds, cut off.
	apart := a.date.Add(500 * time.Millisecond).Sub(a.asked.Add(a.latency / 2))
	f := finding{Check: "clock of the auth server", Level: fine, Found: fmt.Sprintf("%s from this machine's, give or take half a second", apart.Round(100*time.Millisecond))}
	switch {
	case apart.Abs() > tooFar:
		f.Level, f.code = fault, exitAuth
	case apart.Abs() > clocksDiffer:
		f.Level = warning
	default:
		return f
	}
	f.Remedy = "Tokens say when they end by the server's clock, and bots hand out what has more than 60 s left by theirs: run NTP on both."
	return f
}
