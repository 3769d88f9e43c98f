package botcmd_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/mana/session/botcmd"
	"github.com/mana/session/sessiontest"
)

const forbidden = `{"errcode":"M_FORBIDDEN","error":"You cannot redact this"}`

func TestPasswordIsDeletedBeforeItIsUsed(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		message := textEvent(room, alice, login)
		deletedBefore := false
		w.auth.Inject(sessiontest.Login, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			deletedBefore = w.isDeleted(message.ID)
			answer(rw, r)
		})
		w.post(message)
		synctest.Wait()
		require.True(t, deletedBefore)
		require.Equal(t, "You are logged in as "+email+".", w.said(message.ID))
		require.True(t, w.loggedIn())
	})
}

func TestPasswordIsNotUsedUnlessItsMessageIsGone(t *testing.T) {
	for name, c := range map[string]struct {
		call         string
		status       int
		body         string
		want         string
		mayBeDeleted bool
	}{
		"the homeserver forbids it":         {"redact", http.StatusForbidden, forbidden, english.MayNotDelete, false},
		"the homeserver fails":              {"redact", http.StatusInternalServerError, `{"errcode":"M_UNKNOWN"}`, english.NotDeleted, false},
		"the redaction has no effect":       {"redact", http.StatusOK, `{"event_id":"$x"}`, english.NotDeleted, false},
		"it cannot be seen whether it did":  {"event", http.StatusInternalServerError, `{"errcode":"M_UNKNOWN"}`, english.NotDeleted, true},
		"edits cannot be looked for":        {"relations", http.StatusInternalServerError, `{"errcode":"M_UNKNOWN"}`, english.NotDeleted, false},
		"the bot was kicked out meanwhile":  {"relations", http.StatusForbidden, forbidden, english.MayNotDelete, false},
		"the homeserver asks to come later": {"redact", http.StatusTooManyRequests, `{"errcode":"M_LIMIT_EXCEEDED"}`, english.NotDeleted, false},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T) {
				w := newWorld(t).start()
				w.fail(c.call, 0, c.status, c.body)
				message := w.say(login)
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				require.Equal(t, c.want, w.said(message))
				require.Equal(t, c.mayBeDeleted, w.isDeleted(message))
				require.Zero(t, w.auth.Calls(sessiontest.Login))
				require.False(t, w.loggedIn())
			})
		})
	}
}

func TestHomeserverThatAsksForPatienceGetsIt(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		for _, call := range []string{"relations", "redact", "event", "members", "send"} {
			w.fail(call, 2, http.StatusTooManyRequests, `{"errcode":"M_LIMIT_EXCEEDED"}`, "Retry-After", "3")
		}
		message := w.say(login)
		require.Empty(t, w.said(message))
		time.Sleep(40 * time.Second)
		synctest.Wait()
		require.Equal(t, "You are logged in as "+email+".", w.said(message), "once, after ten pauses of three seconds")
	})
}

func TestHomeserverMayLagBehindItsOwnRedaction(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		stale := `{"type":"m.room.message","sender":"@alice:matrix.example","content":{"msgtype":"m.text","body":"!login …"}}`
		w.fail("event", 2, http.StatusOK, stale)
		message := w.say(login)
		require.Zero(t, w.auth.Calls(sessiontest.Login))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, "You are logged in as "+email+".", w.said(message))
	})
}

func TestHomeserverWithoutRelationsIsGoodEnough(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		w.fail("relations", 0, http.StatusNotFound, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)
		require.Equal(t, "You are logged in as "+email+".", w.ask(login))
	})
}

func TestEditsThatRepeatThePasswordAreDeleted(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		message := textEvent(room, alice, login)
		w.post(message)
		synctest.Wait()

		for _, text := range []string{login + "!", "login " + email + " " + password, "!LOGIN\t" + email + " x"} {
			later := w.post(editEvent(alice, message.ID, text))
			synctest.Wait()
			require.True(t, w.isDeleted(later), text)
			require.Equal(t, english.EditDeleted, w.said(later))
		}
		require.Equal(t, 1, w.auth.Calls(sessiontest.Login), "an edit logs nobody in")
	})
}

func TestEditsFromBeforeAreDeletedBeforeThePasswordIsUsed(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t)
		message := textEvent(room, alice, login)
		w.post(textEvent(room, bot, "Hello!"), message)
		first := w.post(editEvent(alice, message.ID, login+"1"))
		second := w.post(editEvent(alice, message.ID, "x "+login))
		third := w.post(editEvent(alice, message.ID, login+"3"))
		others := w.post(editEvent(bob, message.ID, "not an edit: of somebody else's"))
		w.auth.Inject(sessiontest.Login, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			for _, edit := range []id.EventID{first, second, third, message.ID} {
				if !w.isDeleted(edit) {
					t.Errorf("%s is still there when the password is used", edit)
				}
			}
			answer(rw, r)
		})
		require.NoError(t, w.proc.Client.Store.SaveNextBatch(t.Context(), bot, "1"))
		w.startAfresh()
		synctest.Wait()
		require.Equal(t, "You are logged in as "+email+".", w.said(message.ID))
		require.Equal(t, 1, w.auth.Calls(sessiontest.Login))
		require.False(t, w.isDeleted(others))
		require.Empty(t, w.said(others))
	})
}

func TestEditThatCorrectsACommandTakesTheMessageWithIt(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		misspelt := w.say("!lgoin " + email + " " + password)
		require.False(t, w.isDeleted(misspelt))
		edit := w.post(editEvent(alice, misspelt, login))
		synctest.Wait()
		require.True(t, w.isDeleted(edit))
		require.True(t, w.isDeleted(misspelt))
		require.Equal(t, english.EditDeleted, w.said(edit))
		require.Zero(t, w.auth.Calls(sessiontest.Login))
	})
}

func TestNobodyHasAnothersMessageDeleted(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		w.has(bob, event.MembershipJoin)
		message := w.say("a message that bob does not like")
		edit := w.post(editEvent(bob, message, login))
		synctest.Wait()
		require.True(t, w.isDeleted(edit))
		require.False(t, w.isDeleted(message))
	})
}

func TestEditThatCannotBeDeletedIsNamed(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		message := w.say(login)
		w.fail("redact", 0, http.StatusForbidden, forbidden)
		edit := w.post(editEvent(alice, message, login+"!"))
		synctest.Wait()
		require.Equal(t, english.EditNotDeleted, w.said(edit))
	})
}

func TestOrdinaryEditsAreNoneOfTheBotsBusiness(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		message := w.say("!login")
		edit := w.post(editEvent(alice, message, "!whoami"))
		synctest.Wait()
		require.False(t, w.isDeleted(edit))
		require.Empty(t, w.said(edit))
	})
}

func TestPasswordIsRefusedWhereOthersCanRead(t *testing.T) {
	for membership, refused := range map[event.Membership]bool{
		event.MembershipJoin:   true,
		event.MembershipInvite: true,
		event.MembershipKnock:  true,
		event.MembershipLeave:  false,
		event.MembershipBan:    false,
	} {
		t.Run(string(membership), func(t *testing.T) {
			inWorld(t, func(t *testing.T) {
				w := newWorld(t).start()
				w.has(bob, membership)
				message := w.say(login)
				require.True(t, w.isDeleted(message))
				if refused {
					require.Equal(t, english.OthersCanRead, w.said(message))
				}
				require.Equal(t, !refused, w.loggedIn())
			})
		})
	}
}

func TestRoomThatCannotBeLookedAtIsNotTrusted(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		w.fail("members", 0, http.StatusInternalServerError, `{"errcode":"M_UNKNOWN"}`)
		require.Equal(t, english.Failed, w.ask(login))
		require.Zero(t, w.auth.Calls(sessiontest.Login))
	})
}

func TestPasswordIsTheRestOfTheLine(t *testing.T) {
	for message, secret := range map[string]string{
		"!login EMAIL plain":              "plain",
		"!login EMAIL two words":          "two words",
		"!login EMAIL two   words  ":      "two   words",
		`!login EMAIL "quoted"`:           `"quoted"`,
		`!login EMAIL 'it''s' \"x\" \`:    `'it''s' \"x\" \`,
		"!login   EMAIL\tbehind a tab":    "behind a tab",
		"  !Login EMAIL <b>*_~`&amp;`~_*": "<b>*_~`&amp;`~_*",
		"!login EMAIL pässwörd 密碼":        "pässwörd 密碼",
	} {
		t.Run(message, func(t *testing.T) {
			inWorld(t, func(t *testing.T) {
				w := newWorld(t).start()
				w.auth.AddUser("carol@example.com", secret)
				evt := textEvent(room, alice, strings.Replace(message, "EMAIL", "carol@example.com", 1))
				// What clients make of it, which is not what was typed.
				evt.Content.Raw["format"] = "org.matrix.custom.html"
				evt.Content.Raw["formatted_body"] = "!login carol@example.com <em>other</em>"
				w.post(evt)
				synctest.Wait()
				require.Equal(t, "You are logged in as carol@example.com.", w.said(evt.ID))
			})
		})
	}
}

func TestArgumentsThatMakeNoLoginAreAnsweredAndDeleted(t *testing.T) {
	usage := strings.ReplaceAll(english.LoginUsage, "{prefix}", "!")
	for message, deleted := range map[string]bool{
		"!login":                             false,
		"!login " + password:                 true, // no email address
		"!login " + email:                    true,
		"!login " + email + "  ":             true,
		"!login " + email + " one\ntwo":      true, // a password has one line
		"!login\n" + email + "\n" + password: true,
	} {
		t.Run(message, func(t *testing.T) {
			inWorld(t, func(t *testing.T) {
				w := newWorld(t).start()
				sent := w.say(message)
				require.Equal(t, usage, w.said(sent))
				require.Equal(t, deleted, w.isDeleted(sent))
				require.Zero(t, w.auth.Calls(sessiontest.Login))
			})
		})
	}
}

func TestLoginThatOnlyTheMarkupShowsIsDeleted(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		evt := textEvent(room, alice, "something else")
		evt.Content.Raw["format"] = "org.matrix.custom.html"
		evt.Content.Raw["formatted_body"] = "<p>" + login + "</p>"
		w.post(evt)
		synctest.Wait()
		require.True(t, w.isDeleted(evt.ID))
	})
}

func TestSecretsAreNotLogged(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t, botcmd.WithWebLogin(&page{link: "https://login.example/#secret-of-the-link"})).start()
		message := w.say(login)
		w.post(editEvent(alice, message, login+"!"))
		synctest.Wait()
		w.fail("redact", 0, http.StatusForbidden, forbidden)
		w.say(login)
		w.fail("send", 1, dropped, "")
		w.say("!login")
		time.Sleep(time.Minute)
		w.say("!login 123456")
		w.say("!whoami")
		synctest.Wait()
		require.Contains(t, w.log.String(), "Password in a room not deleted", "it logs at all")
		require.Equal(t, 7, w.called("send"), "one of them for the second time")
		for _, secret := range []string{"horse", "secret-of-the-link", "123456", "eyJ"} {
			require.False(t, strings.Contains(w.log.String(), secret), secret)
		}
	})
}
