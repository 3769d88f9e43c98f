// Package weblogin keeps passwords out of Matrix rooms. A bot answers !login with
// a link to a page, which asks for email and password and shows a code. The login
// takes effect when the user sends that code to the bot.
//
//	pages, err := weblogin.New(svc, "https://bot.example/login", weblogin.WithRedis(client))
//	http.Handle("/login", pages)
//
//	url, err := pages.Link(ctx, sender, room)             // !login
//	s, err := pages.Complete(ctx, sender, room, "BCDFGHJK") // !login BCDFGHJK
//
// # What a link is worth
//
// A link is for one Matrix user in one room, holds for 10 minutes, and is spent
// by the password that the auth server accepts. To open it spends nothing, so
// that link previews and scanners may. It is no secret that a login hangs on: it
// may be in the logs of a proxy, and a user may pass it on. What counts is the
// code, which the page shows once, and which the bot accepts from that user in
// that room alone, within 10 minutes. So:
//
//   - Who opens somebody else's link and logs in there has a code that is of no
//     use to them: the bot takes it from the other user only.
//   - Who is lured to log in on somebody else's link has given nothing away
//     before they hand over the code, too. The page names the Matrix ID that it
//     is for, and warns.
//
// The page needs no scripts and loads nothing. It speaks English and German, as
// the browser prefers.
//
// # Limits
//
// A user has 5 links and 10 wrong codes in 10 minutes, a link 5 wrong passwords,
// a code 5 wrong attempts; each is counted in the store, over all processes. On
// top of them come the limits of [session.Service.Login], and [WithGlobalLimit].
package weblogin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/mana/session"
)

// Handler serves the login page, and makes and completes its links. It is safe
// for concurrent use, and holds nothing that has to be closed.
type Handler struct {
	svc     *session.Service
	base    *url.URL
	links   links
	page    pages
	logger  *slog.Logger
	origins *http.CrossOriginProtection

	// Of this process: links made, and passwords passed on.
	made, asked *rate.Limiter
}

var _ http.Handler = (*Handler)(nil)

// New returns the handler of a login page at baseURL, which is the page's address
// as browsers see it: https, or http on the loopback interface, and without a
// query. Mount it at that path, or wherever a proxy sends requests for it: the
// handler looks at the query alone.
func New(svc *session.Service, baseURL string, opts ...Option) (*Handler, error) {
	if svc == nil {
		return nil, errors.New("weblogin: New: no service")
	}
	c := config{command: "!login", perMin: 60, logger: slog.New(slog.DiscardHandler)}
	for _, opt := range opts {
		if err := opt(&c); err != nil {
			return nil, err
		}
	}
	base, err := parseBase(baseURL)
	if err != nil {
		return nil, err
	}
	if c.store == nil {
		c.store = session.NewMemoryStore()
	}
	limit := func() *rate.Limiter {
		if c.perMin == 0 {
			return rate.NewLimiter(rate.Inf, 0)
		}
		return rate.NewLimiter(rate.Every(time.Minute/time.Duration(c.perMin)), c.perMin)
	}
	h := &Handler{
		svc: svc, base: base, links: links{c.store}, page: newPages(c.name, c.command), logger: c.logger,
		origins: http.NewCrossOriginProtection(), made: limit(), asked: limit(),
	}
	// A proxy may change the Host that the Origin is compared with.
	if err := h.origins.AddTrustedOrigin(base.Scheme + "://" + base.Host); err != nil {
		return nil, fmt.Errorf("weblogin: New: %w", err)
	}
	return h, nil
}

// parseBase checks the address of the page. A password must not cross a network in
// plain text.
func parseBase(baseURL string) (*url.URL, error) {
	base, err := url.Parse(baseURL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("weblogin: New: the page's address: %w", err)
	case base.Host == "" || base.Opaque != "" || base.User != nil || base.RawQuery != "" || base.ForceQuery || base.Fragment != "":
		return nil, errors.New("weblogin: New: the page's address is not of the form https://host/path")
	case base.Scheme == "https", base.Scheme == "http" && isLoopback(base.Hostname()):
	default:
		return nil, errors.New("weblogin: New: the page needs https, because it takes passwords")
	}
	base.Host = strings.ToLower(base.Host)
	base.Host = strings.TrimSuffix(base.Host, map[string]string{"https": ":443", "http": ":80"}[base.Scheme]) // as in an Origin
	return base, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Link makes the user a link to the page, which holds for 10 minutes, for this room
// and in the place of any other that the user has. Send it to nobody but them.
//
// It returns [session.ErrRateLimited] for too many links, by the user or by all,
// with an [session.AuthError] that says how long to wait, and
// [session.ErrStoreUnavailable] when it cannot be kept; besides
// [session.ErrInvalidUserID] and [session.ErrClosed].
func (h *Handler) Link(ctx context.Context, userID, roomID string) (string, error) {
	if err := h.check(ctx, userID, roomID); err != nil {
		return "", err
	}
	address := newAddress(userID)
	admitted := false
	err := h.links.edit(ctx, address.key(), func(r *record) error {
		now := time.Now()
		r.claim(userID, now)
		if r.Links >= linksPerWindow {
			return tooMany("too many links for this user", r.Window.Sub(now))
		}
		if !admitted { // last, so that nobody uses up the links of others
			if wait := refuse(h.made); wait > 0 {
				return tooMany("too many links", wait)
			}
			admitted = true
		}
		r.Links++
		r.Link = &link{Room: roomID, Secret: address.hash(), Until: now.Add(linkLife)}
		return nil
	})
	if err != nil {
		h.logger.Log(ctx, levelOf(err), "weblogin: no link made", "user", userID, "error", err)
		return "", err
	}
	h.logger.Info("weblogin: a link is made", "user", userID)
	to := *h.base
	to.RawQuery = url.Values{linkParam: {address.String()}}.Encode()
	return to.String(), nil
}

// Complete logs the user in if the code is the one that the page of their link
// showed, and was sent from the link's room. Upper and lower case are the same, and
// spaces and hyphens do not count. A code is spent by it.
//
// It returns [session.ErrInvalidCredentials] for a wrong code, and
// [session.ErrLoginExpired] when there is nothing to complete: no link of this user
// in this room, or one that is spent, has expired, or has met 5 wrong codes.
// [session.ErrRateLimited] is for too many wrong codes by the user, with an
// [session.AuthError] that says how long to wait, and [session.ErrStoreUnavailable]
// for when the store is away. Its other errors are those of
// [session.Service.CompleteLogin], after which the code is still good.
func (h *Handler) Complete(ctx context.Context, userID, roomID, code string) (*session.Session, error) {
	if err := h.check(ctx, userID, roomID); err != nil {
		return nil, err
	}
	key := newAddress(userID).key()
	sent := guess{code: normalize(code)}
	var taken *link
	var verdict error
	err := h.links.edit(ctx, key, func(r *record) error {
		now := time.Now()
		taken, verdict = nil, nil
		switch l := r.Link; {
		case r.UserID != userID || !l.live(now) || l.Room != roomID:
			return fmt.Errorf("%w: no link of this user in this room", session.ErrLoginExpired)
		case r.recent(now) && r.Wrong >= wrongPerWindow:
			return tooMany("too many wrong codes", r.Window.Sub(now))
		case sent.opens(l):
			taken, r.Link = l, nil
		default:
			r.claim(userID, now)
			r.Wrong++
			l.WrongCodes++
			verdict = fmt.Errorf("%w: wrong code", session.ErrInvalidCredentials)
			if l.WrongCodes >= wrongPerCode {
				r.Link = nil
				verdict = fmt.Errorf("%w: too many wrong codes", session.ErrLoginExpired)
			}
		}
		return nil
	})
	if err == nil {
		err = verdict
	}
	if err != nil {
		h.logger.Log(ctx, levelOf(err), "weblogin: code not accepted", "user", userID, "error", err)
		return nil, err
	}
	pending := new(session.PendingLogin)
	if err := pending.UnmarshalBinary(taken.Pending); err != nil {
		return nil, fmt.Errorf("%w: %w", session.ErrLoginExpired, err)
	}
	s, err := h.svc.CompleteLogin(ctx, userID, pending)
	if err != nil {
		if !errors.Is(err, session.ErrLoginExpired) {
			h.putBack(ctx, userID, taken)
		}
		h.logger.Warn("weblogin: a login could not be completed", "user", userID, "error", err)
		return nil, err
	}
	h.logger.Info("weblogin: a login is completed", "user", userID)
	return s, nil
}

// putBack makes a code good again that was spent in vain.
func (h *Handler) putBack(ctx context.Context, userID string, taken *link) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), putBackTimeout)
	defer cancel()
	err := h.links.edit(ctx, newAddress(userID).key(), func(r *record) error {
		if r.claim(userID, time.Now()); r.Link != nil {
			return errReplaced
		}
		r.Link = taken
		return nil
	})
	if err != nil && !errors.Is(err, errReplaced) {
		h.logger.Warn("weblogin: a code could not be made good again", "error", err)
	}
}

var errReplaced = errors.New("there is a newer link")

// check refuses what no link can be made for. The Service says what a Matrix ID is,
// and whether it is closed, before it sees that there is no password.
func (h *Handler) check(ctx context.Context, userID, roomID string) error {
	if _, err := h.svc.PrepareLogin(ctx, userID, "", ""); !errors.Is(err, session.ErrInvalidCredentials) {
		return err
	}
	if roomID == "" || len(roomID) > maxRoomID {
		return fmt.Errorf("weblogin: a room ID has 1 to %d bytes, not %d", maxRoomID, len(roomID))
	}
	return nil
}

// refuse counts one call, or returns how long to wait for the next.
func refuse(limit *rate.Limiter) time.Duration {
	now := time.Now()
	if limit.AllowN(now, 1) {
		return 0
	}
	missing := 1 - limit.TokensAt(now)
	return max(time.Duration(missing/float64(limit.Limit())*float64(time.Second)), time.Second)
}

// levelOf keeps out of an operator's sight what users bring about as often as they
// like.
func levelOf(err error) slog.Level {
	for _, theirs := range []error{
		session.ErrInvalidCredentials, session.ErrEmailNotVerified, session.ErrLoginExpired, session.ErrRateLimited,
		errTooManyPasswords, context.Canceled,
	} {
		if errors.Is(err, theirs) {
			return slog.LevelDebug
		}
	}
	return slog.LevelWarn
}

func tooMany(why string, wait time.Duration) error {
	wait = (wait + time.Second - 1).Truncate(time.Second)
	return fmt.Errorf("%w: %w", session.ErrRateLimited, &session.AuthError{Op: "login", Message: why, RetryAfter: wait})
}
