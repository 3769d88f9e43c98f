package session

import "time"

// Who wins when two events meet on one user. All functions here are pure; time
// is the time at which sessions began and users were logged out, which every
// process takes by its own clock, but never before anything that it has seen.
// From the strongest to the weakest:
//
//  1. A logout ends every session that had begun when it was made.
//  2. A login replaces what is stored, and keeps the data of the same account.
//  3. A refresh is for the session that it was made from, and for no other; the
//     successor of a refresh token that was spent replaces the spent one even if
//     the rest of the refresh has come too late.
//  4. Of two refreshes of one session the token that lives longer stays.

// sameAccount reports whether next belongs to the account that l belongs to.
// Subjects decide; when a token does not tell its subject, emails do.
func (l *login) sameAccount(next *login) bool {
	if l.token.subject != "" && next.token.subject != "" {
		return l.token.subject == next.token.subject
	}
	return l.email != "" && sameEmail(l.email, next.email)
}

// sameSession is sameAccount for what a session's own refresh token brought: a
// token that names no subject, or a changed email, is no other account.
func (l *login) sameSession(next *login) bool {
	return l.token.subject == "" || next.token.subject == "" || l.token.subject == next.token.subject
}

// succeed returns next as the successor of l: with l's data, and with what next
// does not bring itself.
func (l *login) succeed(next *login) *login {
	merged := *next
	merged.data = l.data
	if merged.email == "" {
		merged.email = l.email
	}
	if merged.refresh.empty() {
		merged.refresh = l.refresh
	}
	if merged.since.IsZero() { // next has another end: from it, it cannot be told any more
		merged.since = l.began()
	}
	if merged.since.IsZero() {
		merged.since = unknownSince
	}
	return &merged
}

// mergeLogin returns what a login stores in the place of what is stored, and
// whether it belongs to the same account. clean says that a logout came before the
// login which the store has not seen yet: then nothing of what is stored stays.
func mergeLogin(stored, next *login, clean bool) (merged *login, same bool) {
	switch {
	case stored == nil:
		return next, true
	case !stored.sameAccount(next):
		return next, false
	case clean:
		return next, true
	}
	return stored.succeed(next), true
}

// refreshed is what the auth server gave for a session.
type refreshed struct {
	base  *login // the session that it was asked for; nil if there was none
	next  *login
	spent bool // base's refresh token was used up for it
}

// replaces returns what a refresh stores in the place of its base, and whether
// it belongs to the same account. Without a base it begins a session at the
// time at which it was asked for.
func (r refreshed) replaces(asked time.Time) (merged *login, same bool) {
	if r.base == nil {
		begun := *r.next
		begun.since = asked
		return &begun, true
	}
	if r.spent && !r.base.sameSession(r.next) || !r.spent && !r.base.sameAccount(r.next) {
		begun := *r.next
		begun.since = asked
		return &begun, false
	}
	merged = r.base.succeed(r.next)
	if r.base.email != "" {
		merged.email = r.base.email
	}
	return merged, true
}

// over returns what a refresh stores in the place of what is stored now, which
// is not its base any more; or nil if it has come too late to be of use.
func (r refreshed) over(stored *login) *login {
	switch {
	case r.base == nil, stored == nil:
		return nil
	case beganAfter(stored, r.base):
		return nil // another session
	case !stored.sameSession(r.base), !stored.sameSession(r.next):
		return nil
	}
	// A refresh token that was spent stays so; any other is newer than ours.
	spent := r.spent && (stored.refresh.empty() || stored.refresh.equal(r.base.refresh))
	older := !stored.token.raw.equal(r.base.token.raw) && stored.token.outlives(r.next.token)
	if older && !spent {
		return nil
	}
	next := stored.succeed(r.next)
	if stored.email != "" {
		next.email = stored.email
	}
	if !spent {
		next.refresh = stored.refresh
	}
	if older {
		next.token = stored.token
	}
	return next
}

// beganAfter reports whether stored is of a later login than l. The TypeScript
// service does not keep when a session began; but it leaves an email only in
// what a login of its own wrote, with a later end, or in what it changed
// without giving it another one.
func beganAfter(stored, l *login) bool {
	if stored.since.IsZero() {
		return stored.email != "" && stored.expires.After(l.expires)
	}
	return !l.since.IsZero() && stored.since.After(l.since)
}

// over returns what a pending login or refresh stores in the place of what is
// stored now (nil: nothing), or nil when something newer has overtaken it.
// loggedOut is when the user was last logged out.
func (p *pending) over(stored *login, loggedOut time.Time) *login {
	// A session that is stored has not been logged out, whenever that was.
	stays := stored != nil && stored.began().Equal(p.since)
	switch {
	case !stays && !loggedOut.IsZero() && !loggedOut.Before(p.since):
		return nil
	case !p.began && stored == nil && p.spent:
		return p.login // the store lost it, and there is no other way back
	case !p.began:
		return refreshed{base: p.base, next: p.login, spent: p.spent}.over(stored)
	case stored != nil && stored.began().After(p.since):
		return nil
	case stays && stored.sameAccount(p.login):
		return p.successorOf(stored)
	case stored != nil && !p.clean:
		next, _ := mergeLogin(stored, p.login, false)
		return next
	}
	next := *p.login
	if p.clean || !loggedOut.IsZero() {
		next.data = "" // it went with the logout
	}
	return &next
}

// successorOf is for a login that was stored all the same, though its answer was
// lost. Others may have spent its refresh token since: theirs is the one to keep.
func (p *pending) successorOf(stored *login) *login {
	if !p.login.token.outlives(stored.token) {
		return nil
	}
	next := *stored
	next.token = p.login.token
	return &next
}

// ends reports whether a pending logout ends the session that is stored: one
// that had begun before it. A session that this process knew when the logout was
// made had; one that says it began in the future cannot be told from it.
func (p *pending) ends(stored *login, now time.Time) bool {
	if stored == nil {
		return true
	}
	began := stored.began()
	return !began.After(p.since) || began.After(now)
}
