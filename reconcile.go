package session

import "time"

// reconcile returns what to store of a login or refresh that waited, in the
// place of what is stored now (nil: nothing), when the user was last logged out
// at the given time. It returns nil when something newer has overtaken it.
func (p *queuedWrite) reconcile(stored *login, loggedOut time.Time) *login {
	// A session that is stored has not been logged out, whenever that was.
	stays := stored != nil && stored.began().Equal(p.since)
	switch {
	case !stays && !loggedOut.IsZero() && !loggedOut.Before(p.since):
		return nil
	case stored != nil && stored.began().After(p.since):
		return nil
	case !p.began:
		return p.reconcileRefresh(stored)
	case stays && stored.sameAccount(p.login):
		return p.successorOf(stored)
	case stored != nil && !p.clean:
		next, _ := stored.succeed(p.login)
		return next
	}
	next := *p.login
	if p.clean || !loggedOut.IsZero() {
		next.data = "" // it went with the log-out
	}
	return &next
}

// successorOf is for a login that was stored all the same, though its answer was
// lost. Others may have spent its refresh token since: theirs is the one to keep.
func (p *queuedWrite) successorOf(stored *login) *login {
	if !p.login.token.outlives(stored.token) {
		return nil
	}
	next := *stored
	next.token = p.login.token
	return &next
}

// reconcileRefresh is for a refresh, which is of use to the session that it is of.
func (p *queuedWrite) reconcileRefresh(stored *login) *login {
	switch {
	case stored == nil && p.spent:
		return p.login // the store lost it, and there is no other way back
	case stored == nil, !stored.sameAccount(p.login):
		return nil
	}
	// A refresh token that was spent stays so; any other is newer than ours.
	spent := p.spent && (stored.refresh.empty() || stored.refresh.equal(p.base.refresh))
	older := !stored.token.raw.equal(p.base.token.raw) && stored.token.outlives(p.login.token)
	if older && !spent {
		return nil
	}
	next, _ := stored.succeed(p.login)
	if !spent {
		next.refresh = stored.refresh
	}
	if older {
		next.token = stored.token
	}
	return next
}
