package main

import (
	"fmt"
	"slices"

	"github.com/anishathalye/porcupine"
)

// What happened to one user, as the checker sees it. A history holds every
// operation whose result says something, or that may have changed something.

// state is what there is to know about a user.
type state struct {
	In      bool
	Linked  bool
	SID     string // of the login; of the link
	Account int    // of those that the user has
	Data    [keys]int

	// When the latest of the acknowledged events was called that count: what was
	// given up before has no effect after them.
	Changed int64       // login or logout
	Over    int64       // logout, or login as another account: the end of all data
	Wrote   [keys]int64 // data
}

const keys = 2

// event is an operation and its result.
type event struct {
	Do      string
	Account int    // of a login, or of the token
	SID     string // of a login, or of the token
	Key     int
	Value   int      // 0: nothing under the key
	Refused bool     // ErrNotLoggedIn
	Unclear bool     // failed: may take effect later, or not at all, but see At
	At      int64    // when it was called; of an unclear one, when its caller was told
	LinkSID string   // the user is linked to account 0, and the link's tokens have this
	Ended   []string // logins that the auth server has ended, for a fault of ours
}

// What can be done, beside doLogin, doLogout and doSet. Logging out and removing
// the link is two events of one time.
const (
	doToken  = "token" // Token and Refresh
	doGet    = "get"
	doLink   = "link"
	doUnlink = "unlink"
)

// sessions is how a user's session behaves for somebody who is told everything
// in the right order.
var sessions = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(s, in, _ any) (bool, any) {
		ok, next := in.(event).step(s.(state))
		return ok, next
	},
	DescribeOperation: func(in, _ any) string { return in.(event).String() },
	DescribeState: func(s any) string {
		text := "logged out"
		if s := s.(state); s.In {
			text = fmt.Sprintf("%s of account %d, data %v", s.SID, s.Account, s.Data)
		}
		if s.(state).Linked {
			text += ", linked"
		}
		return text
	},
}

func (e event) step(s state) (bool, state) {
	if e.Refused {
		// A session that the auth server ended goes when somebody finds out.
		return !s.In || slices.Contains(e.Ended, s.SID), s.end()
	}
	if e.overtaken(s) {
		return true, s
	}
	if (e.Do == doSet || e.Do == doGet) && !s.In && s.Linked {
		s = s.begin(e.LinkSID, 0) // for which the link makes a session
	}
	switch e.Do {
	case doLogin:
		next := s.begin(e.SID, e.Account)
		if !e.Unclear {
			next.Changed = max(s.Changed, e.At)
			if s.In && s.Account != e.Account {
				next.Over = max(s.Over, e.At)
			}
		}
		return true, next
	case doLogout:
		next := s.end()
		if !e.Unclear {
			next.Changed, next.Over = max(s.Changed, e.At), max(s.Over, e.At)
		}
		return true, next
	case doLink, doUnlink:
		s.Linked = e.Do == doLink
		return true, s
	case doToken:
		if s.Linked && s.mayFollowLink(e) && (e.Unclear || e.SID == e.LinkSID) {
			return true, s.begin(e.LinkSID, 0) // the link replaces tokens of its account, and makes a session of none
		}
		return e.Unclear || s.In && s.SID == e.SID && s.Account == e.Account, s
	case doSet:
		ok := s.In || e.Unclear
		if s.In {
			s.Data[e.Key] = e.Value
			if !e.Unclear {
				s.Wrote[e.Key] = max(s.Wrote[e.Key], e.At)
			}
		}
		return ok, s
	case doGet:
		return s.In && s.Data[e.Key] == e.Value, s
	}
	return false, s
}

// overtaken reports whether an event that was given up comes too late: after an
// acknowledged event that was called when it had been given up already.
func (e event) overtaken(s state) bool {
	if !e.Unclear {
		return false
	}
	switch e.Do {
	case doLogin, doLogout, doToken:
		return e.At < s.Changed
	case doSet:
		return e.At < max(s.Over, s.Wrote[e.Key])
	}
	return false
}

// mayFollowLink reports whether the link's token may replace the session: not
// that of a login as another account, until the auth server has ended it.
func (s state) mayFollowLink(e event) bool {
	return !s.In || s.Account == 0 || slices.Contains(e.Ended, s.SID)
}

// begin is s after a token of an account: data stay with the account.
func (s state) begin(sid string, account int) state {
	next := s.end()
	next.In, next.SID, next.Account = true, sid, account
	if s.In && s.Account == account {
		next.Data, next.Wrote = s.Data, s.Wrote
	}
	return next
}

// end is s without a session.
func (s state) end() state {
	return state{Linked: s.Linked, Changed: s.Changed, Over: s.Over}
}

func (e event) String() string {
	text := e.Do
	switch e.Do {
	case doLogin:
		text = fmt.Sprintf("login as %d: %s", e.Account, e.SID)
	case doLogout:
		text = "logout"
	case doToken:
		text = fmt.Sprintf("token: %s of %d", e.SID, e.Account)
	case doSet:
		text = fmt.Sprintf("set %d to %d", e.Key, e.Value)
	case doGet:
		text = fmt.Sprintf("get %d: %d", e.Key, e.Value)
	}
	if e.Refused {
		text = e.Do + ": not logged in"
	}
	if e.Unclear {
		text += "?"
	}
	return text
}
