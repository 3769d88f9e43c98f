package main

import (
	"math"
	"testing"

	"github.com/anishathalye/porcupine"
)

const never = math.MaxInt64

func op(call, ret int64, e event) porcupine.Operation {
	if e.At = call; e.Unclear {
		e.At = call + 1 // given up
	}
	return porcupine.Operation{Input: e, Call: call, Return: ret}
}

func token(sid string, account int) event { return event{Do: doToken, SID: sid, Account: account} }
func logIn(sid string, account int) event { return event{Do: doLogin, SID: sid, Account: account} }
func set(key, value int) event            { return event{Do: doSet, Key: key, Value: value} }
func get(key, value int) event            { return event{Do: doGet, Key: key, Value: value} }

func refused(do string) event { return event{Do: do, Refused: true} }

func perhaps(e event) event {
	e.Unclear = true
	return e
}

func linked(e event) event {
	e.LinkSID = "link"
	return e
}

// over says that the auth server had ended a login.
func over(sid string, e event) event {
	e.Ended = []string{sid}
	return e
}

var (
	logOut = event{Do: doLogout}
	link   = event{Do: doLink}
	unlink = event{Do: doUnlink}
)

func TestCheckerTellsGoodHistoriesFromBad(t *testing.T) {
	ended := over("a", refused(doToken))
	for _, c := range []struct {
		name    string
		good    bool
		history []porcupine.Operation
	}{
		{"token of the login", true, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 3, token("a", 0))}},
		{"token before any login", false, []porcupine.Operation{
			op(0, 1, token("a", 0)), op(2, 3, logIn("a", 0))}},
		{"token after the logout", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 3, logOut), op(4, 5, token("a", 0))}},
		{"token during the logout", true, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 6, logOut), op(4, 5, token("a", 0))}},
		{"token once more after somebody saw the logout", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 9, logOut), op(3, 4, refused(doToken)), op(5, 6, token("a", 0))}},
		{"logout that failed, and took effect late", true, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, never, perhaps(logOut)), op(4, 5, token("a", 0)), op(6, 7, refused(doToken))}},
		{"logout that failed, and took effect twice", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, never, perhaps(logOut)), op(4, 5, refused(doToken)),
			op(6, 7, logIn("b", 0)), op(8, 9, token("b", 0)), op(10, 11, refused(doToken))}},
		{"login that failed, and was seen", true, []porcupine.Operation{
			op(0, never, perhaps(logIn("a", 0))), op(2, 3, refused(doToken)), op(4, 5, token("a", 0))}},
		{"login that failed, and came back after a logout", false, []porcupine.Operation{
			op(0, never, perhaps(logIn("a", 0))), op(2, 3, token("a", 0)), op(4, 5, logOut), op(6, 7, token("a", 0))}},
		{"session lost", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 3, refused(doToken))}},
		{"session ended by the auth server", true, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 3, ended), op(4, 5, refused(doSet))}},
		{"session that comes back after the auth server ended it", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 3, ended), op(4, 5, token("a", 0))}},
		{"token of the account before", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 3, logIn("b", 1)), op(4, 5, token("a", 0))}},
		{"token of one login and the account of another", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 3, token("a", 1))}},
		{"data of the same account after another login", true, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 3, set(0, 7)), op(4, 5, logIn("b", 0)), op(6, 7, get(0, 7))}},
		{"data of another account", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 3, set(0, 7)), op(4, 5, logIn("b", 1)), op(6, 7, get(0, 7))}},
		{"data lost", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 3, set(0, 7)), op(4, 5, get(0, 0))}},
		{"data of one key lost to another", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 5, set(0, 7)), op(2, 5, set(1, 8)), op(6, 7, get(0, 7)), op(8, 9, get(1, 0))}},
		{"data from before a logout", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, 3, set(0, 7)), op(4, 5, logOut), op(6, 7, logIn("b", 0)), op(8, 9, get(0, 7))}},
		{"data write that failed, and is seen", true, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, never, perhaps(set(0, 7))), op(4, 5, get(0, 0)), op(6, 7, get(0, 7))}},
		{"linked user after a logout", true, []porcupine.Operation{
			op(0, 0, link), op(1, 1, logIn("a", 0)), op(2, 3, logOut), op(4, 5, linked(token("link", 0)))}},
		{"linked user after a logout and the end of the link", false, []porcupine.Operation{
			op(0, 0, link), op(1, 2, linked(token("link", 0))), op(3, 4, unlink), op(3, 4, logOut), op(5, 6, linked(token("link", 0)))}},
		{"link that ends before the session does", true, []porcupine.Operation{
			op(0, 0, link), op(1, 2, linked(token("link", 0))), op(3, 9, unlink), op(3, 9, logOut), op(4, 5, linked(token("link", 0)))}},
		{"linked user's token of a login that the link replaced", false, []porcupine.Operation{
			op(0, 0, link), op(0, 1, logIn("a", 0)), op(2, 3, linked(token("link", 0))), op(4, 5, linked(token("a", 0)))}},
		{"linked user's session by a call that failed", true, []porcupine.Operation{
			op(0, 0, link), op(1, never, linked(perhaps(event{Do: doToken}))), op(2, 3, set(0, 7)), op(4, 5, get(0, 7))}},
		{"session by a call that failed, of a user without a link", false, []porcupine.Operation{
			op(1, never, linked(perhaps(event{Do: doToken}))), op(2, 3, set(0, 7)), op(4, 5, get(0, 7))}},
		{"login given up before a logout, and seen before it", true, []porcupine.Operation{
			op(0, never, perhaps(logIn("a", 0))), op(2, 3, token("a", 0)), op(4, 5, logOut), op(6, 7, refused(doToken))}},
		{"login given up before a logout, and landing after it", false, []porcupine.Operation{
			op(0, never, perhaps(logIn("a", 0))), op(2, 3, logOut), op(4, 5, token("a", 0))}},
		{"login given up during a logout, and landing after it", true, []porcupine.Operation{
			op(0, never, perhaps(logIn("a", 0))), op(1, 3, logOut), op(4, 5, token("a", 0))}},
		{"login given up before a logout that failed", true, []porcupine.Operation{
			op(0, never, perhaps(logIn("a", 0))), op(2, never, perhaps(logOut)), op(4, 5, token("a", 0)), op(6, 7, refused(doToken))}},
		{"logout given up before a login, and landing after it", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, never, perhaps(logOut)), op(4, 5, logIn("b", 0)), op(6, 7, refused(doToken))}},
		{"logout given up before a login, and landing before it", true, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, never, perhaps(logOut)), op(4, 5, logIn("b", 0)), op(6, 7, token("b", 0))}},
		{"login as another given up before a login, and landing after it", false, []porcupine.Operation{
			op(0, never, perhaps(logIn("b", 1))), op(2, 3, logIn("a", 0)), op(4, 5, token("a", 0)), op(6, 7, token("b", 1))}},
		{"login as another given up after a login", true, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, never, perhaps(logIn("b", 1))), op(4, 5, token("a", 0)), op(6, 7, token("b", 1))}},
		{"data write given up before another, and landing after it", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, never, perhaps(set(0, 7))), op(4, 5, set(0, 8)), op(6, 7, get(0, 8)), op(8, 9, get(0, 7))}},
		{"data write given up before one of another key", true, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, never, perhaps(set(0, 7))), op(4, 5, set(1, 8)), op(6, 7, get(0, 0)), op(8, 9, get(0, 7))}},
		{"data write given up before a login of the same account", true, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, never, perhaps(set(0, 7))), op(4, 5, logIn("b", 0)), op(6, 7, get(0, 0)), op(8, 9, get(0, 7))}},
		{"data write given up before a logout, and landing in the next session", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, never, perhaps(set(0, 7))), op(4, 5, logOut), op(6, 7, logIn("b", 0)), op(8, 9, get(0, 7))}},
		{"data write given up before a login as another, and landing there", false, []porcupine.Operation{
			op(0, 1, logIn("a", 0)), op(2, never, perhaps(set(0, 7))), op(4, 5, logIn("b", 1)), op(6, 7, get(0, 7))}},
		{"call given up before a logout, and making a session after it", false, []porcupine.Operation{
			op(0, 0, link), op(1, never, linked(perhaps(event{Do: doToken}))), op(3, 4, logOut), op(4, 4, event{Do: doUnlink}), op(5, 6, set(0, 7))}},
		{"data of a linked user who was logged out", true, []porcupine.Operation{
			op(0, 0, link), op(3, 4, logOut), op(5, 6, linked(set(0, 7))), op(7, 8, linked(get(0, 7)))}},
		{"link's token after a login as another", false, []porcupine.Operation{
			op(0, 0, link), op(1, 2, logIn("b", 1)), op(3, 4, linked(token("link", 0)))}},
		{"link's token after the auth server ended a login as another", true, []porcupine.Operation{
			op(0, 0, link), op(1, 2, logIn("b", 1)), op(3, 4, over("b", linked(token("link", 0))))}},
		{"link's token after a login as another and a logout", true, []porcupine.Operation{
			op(0, 0, link), op(1, 2, logIn("b", 1)), op(3, 4, logOut), op(5, 6, linked(token("link", 0)))}},
		{"data without a session", false, []porcupine.Operation{
			op(0, 1, set(0, 7))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if porcupine.CheckOperations(sessions, c.history) != c.good {
				t.Errorf("want %t", c.good)
			}
		})
	}
}
