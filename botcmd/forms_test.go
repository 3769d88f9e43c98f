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

// replyEvent is a message of alice's in the form that clients give to a reply: the
// text that it replies to comes first.
func replyEvent(text string, markup bool) *event.Event {
	evt := textEvent(room, alice, "> <"+bot.String()+"> Please log in first: !login\n> It takes no time.\n\n"+text)
	evt.Content.Raw["m.relates_to"] = map[string]any{"m.in_reply_to": map[string]any{"event_id": "$before"}}
	if markup {
		evt.Content.Raw["format"] = "org.matrix.custom.html"
		evt.Content.Raw["formatted_body"] = "<mx-reply><blockquote>Please log in first: !login</blockquote></mx-reply>" + text
	}
	return evt
}

func TestCommandMayBeAReply(t *testing.T) {
	for name, markup := range map[string]bool{"plain": false, "with markup": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T) {
				w := newWorld(t)
				w.register("echo", func(c command) { w.cmds.Reply(c, c.RawArgs) })
				w.start()
				sent := w.post(replyEvent(login, markup))
				synctest.Wait()
				require.Equal(t, "You are logged in as "+email+".", w.said(sent))
				require.True(t, w.isDeleted(sent))
				sent = w.post(replyEvent("!echo one two", markup))
				synctest.Wait()
				require.Equal(t, "one two", w.said(sent))
				sent = w.post(replyEvent("thank you", markup))
				synctest.Wait()
				require.Empty(t, w.said(sent), "what is quoted is no command")
			})
		})
	}
}

func TestWhatNobodySeesInFrontOfACommandDoesNotHideIt(t *testing.T) {
	for name, before := range map[string]string{
		"a space that has no width": "\u200b", "a mark of the order of bytes": "\ufeff", "a mark of the direction": "\u200f\u202b",
		"an isolate": "\u2068", "lines": "\r\n\n\t ", "a space that does not break": "\u00a0",
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T) {
				w := newWorld(t)
				w.register("echo", func(c command) { w.cmds.Reply(c, c.RawArgs) })
				w.start()
				sent := w.say(before + login)
				require.Equal(t, "You are logged in as "+email+".", w.said(sent))
				require.True(t, w.isDeleted(sent))
				require.Equal(t, "one two", w.ask(before+"!echo one two"))
			})
		})
	}
}

// Keyboards put a space behind an exclamation mark.
func TestSpaceBehindThePrefixDoesNotLeaveAPasswordInTheRoom(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		sent := w.say("! Login " + email + " " + password)
		require.Equal(t, "You are logged in as "+email+".", w.said(sent))
		require.True(t, w.isDeleted(sent))
		require.Contains(t, w.ask("!  login"), "Please send: !login EMAIL")
		require.Empty(t, w.said(w.say("login "+email+" "+password)), "without the prefix it is no command")
	})
}

func TestEmailThatWasCopiedMayHaveMarks(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		require.Equal(t, "You are logged in as "+email+".", w.ask("!login \u2066"+email+"\u2069\u200b "+password+"\r\n"))
	})
}

func TestEditsOfEditsAreDeletedBeforeThePasswordIsUsed(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t)
		message := textEvent(room, alice, login)
		w.post(textEvent(room, bot, "Hello!"), message)
		first := w.post(editEvent(alice, message.ID, "login "+email+" "+password))
		second := w.post(editEvent(alice, first, "log in "+email+" "+password))
		w.auth.Inject(sessiontest.Login, 1, func(rw http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
			for _, edit := range []id.EventID{first, second} {
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

		third := w.post(editEvent(alice, second, email+" "+password))
		synctest.Wait()
		require.True(t, w.isDeleted(third), "one that comes later")
		require.Equal(t, english.EditDeleted, w.said(third))
	})
}

func TestPasswordAnywhereInAnEditIsDeleted(t *testing.T) {
	for name, change := range map[string]func(raw map[string]any){
		"in the markup": func(raw map[string]any) {
			raw["m.new_content"] = map[string]any{
				"msgtype": "m.text", "body": "…", "format": "org.matrix.custom.html", "formatted_body": "<p>" + login + "</p>",
			}
		},
		"for old clients alone": func(raw map[string]any) {
			raw["m.new_content"] = map[string]any{"msgtype": "m.text", "body": "…"}
			raw["body"] = " * " + login
		},
		"in the markup for old clients": func(raw map[string]any) {
			raw["m.new_content"] = map[string]any{"msgtype": "m.text", "body": "…"}
			raw["format"], raw["formatted_body"] = "org.matrix.custom.html", "* "+login
		},
		"behind what it replies to": func(raw map[string]any) {
			raw["m.new_content"] = map[string]any{"msgtype": "m.text", "body": "> <@bot:matrix.example> Hello!\n\n" + login}
		},
		"as a notice": func(raw map[string]any) {
			raw["msgtype"] = "m.notice"
			raw["m.new_content"] = map[string]any{"msgtype": "m.notice", "body": login}
		},
		"behind what nobody sees": func(raw map[string]any) {
			raw["m.new_content"] = map[string]any{"msgtype": "m.text", "body": "\u200b\r\n" + login}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T) {
				w := newWorld(t).start()
				message := w.say("hello")
				edit := editEvent(alice, message, "hello!")
				edit.Content.Raw["body"] = "* hello!"
				change(edit.Content.Raw)
				w.post(edit)
				synctest.Wait()
				require.True(t, w.isDeleted(edit.ID))
				require.Equal(t, english.EditDeleted, w.said(edit.ID))
				require.Zero(t, w.auth.Calls(sessiontest.Login))
			})
		})
	}
}

func TestWhatMayBeAnotherBotsCommandIsLeftToItWhenItIsOldOrOneOfMany(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t)
		goOn := make(chan struct{})
		w.register("wait", func(c command) { <-goOn })
		w.start()
		old := func() id.EventID {
			evt := textEvent(room, alice, "!weather")
			evt.Timestamp = time.Now().Add(-11 * time.Minute).UnixMilli()
			message := w.post(evt)
			synctest.Wait()
			return message
		}
		require.Equal(t, english.TooOld, w.said(old()))
		w.has(bob, event.MembershipJoin)
		require.Empty(t, w.said(old()))

		w.say("!wait")
		for range 19 {
			w.say("!weather")
		}
		refused, ours := w.say("!weather"), w.say("!whoami")
		close(goOn)
		synctest.Wait()
		require.Empty(t, w.said(refused))
		require.Equal(t, english.TooMany, w.said(ours))
	})
}

func TestCodeIsTakenAsKeyboardsAndClipboardsMakeIt(t *testing.T) {
	for _, code := range []string{"482\u2013913", "482\u2011913", "\u2068482913\u2069", "482\u200b913", "482\u00a0913", "482913\r\n"} {
		t.Run(code, func(t *testing.T) {
			inWorld(t, func(t *testing.T) {
				w, p := newPage(t, botcmd.WithoutPasswords())
				w.say("!login")
				w.say("!login " + code)
				require.Equal(t, "482913", strings.NewReplacer("\u2013", "", "\u2011", "").Replace(p.got))
				w.say("!login")
				p.got = ""
				w.say("!code " + code)
				require.Equal(t, "482913", strings.NewReplacer("\u2013", "", "\u2011", "").Replace(p.got))
			})
		})
	}
}

func TestPasswordSentAsACodeIsDeletedHoweverLong(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w, _ := newPage(t)
		message := w.say("!code " + strings.Repeat("correct horse ", 10))
		require.True(t, w.isDeleted(message))
	})
}

func TestArgumentsThatMayBeAPasswordAreNotLogged(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w, _ := newPage(t)
		w.register("echo", func(c command) {})
		w.say("!lgoin " + email + " " + password) // a slip
		w.say("!code " + password)
		w.say("!whoami " + password)
		require.NotContains(t, w.log.String(), "horse")
		w.say("!echo argument")
		require.Contains(t, w.log.String(), "argument", "those of the bot's own commands are, as LogArgs says")
	})
}
