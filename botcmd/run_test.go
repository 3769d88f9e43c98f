package botcmd_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"maunium.net/go/mautrix/commands"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/mana/session"
	"github.com/mana/session/botcmd"
	"github.com/mana/session/sessiontest"
	"github.com/mana/session/storetest"
)

type command = *commands.Event[*session.Service]

func TestWhoIsKickedBeforeTheAnswerCostsNobodyElseTheirs(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		w.has(alice, event.MembershipLeave)
		message := w.say(login)
		require.True(t, w.isDeleted(message))
		require.True(t, w.loggedIn(), "alice asked for it")

		w.fail("send", 1, http.StatusForbidden, `{"errcode":"M_FORBIDDEN","error":"Not in the room"}`)
		require.Empty(t, w.ask("!whoami"), "the bot was kicked out as well")
		others := w.post(textEvent(bobsRoom, bob, "!whoami"))
		synctest.Wait()
		require.Contains(t, w.said(others), "Please log in")
	})
}

func TestCommandsOfAUserRunOneAfterTheOther(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t)
		goOn := make(chan struct{})
		w.register("wait", func(c command) {
			<-goOn
			w.cmds.Reply(c, "done")
		})
		w.start()
		first, second := w.say("!wait"), w.say("!whoami")
		others := w.post(textEvent(bobsRoom, bob, "!whoami"))
		synctest.Wait()
		require.NotEmpty(t, w.said(others), "other users need not wait")
		require.Empty(t, w.said(second))
		close(goOn)
		synctest.Wait()
		require.Equal(t, "done", w.said(first))
		require.Contains(t, w.said(second), "Please log in")
	})
}

func TestNoMoreCommandsRunAtOnceThanAllowed(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t, botcmd.WithConcurrency(2))
		running := make(chan struct{}, 10)
		goOn := make(chan struct{})
		w.register("wait", func(c command) {
			running <- struct{}{}
			<-goOn
		})
		w.start()
		for n := range 5 {
			w.post(textEvent(room, id.UserID(fmt.Sprintf("@user%d:matrix.example", n)), "!wait"))
		}
		synctest.Wait()
		require.Len(t, running, 2)
		close(goOn)
		synctest.Wait()
		require.Len(t, running, 5)
	})
}

func TestMoreCommandsThanTheBotKeepsUpWithAreRefused(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t)
		goOn := make(chan struct{})
		w.register("wait", func(c command) { <-goOn })
		w.start()
		w.say("!wait")
		var messages []id.EventID
		for range 19 {
			messages = append(messages, w.say("!whoami"))
		}
		refused, secret := w.say("!whoami"), w.say(login)
		for range 200 {
			w.say("!whoami") // most of them are not even refused
		}
		close(goOn)
		synctest.Wait()
		for _, message := range messages {
			require.Contains(t, w.said(message), "Please log in")
		}
		require.Equal(t, english.TooMany, w.said(refused))
		require.Equal(t, english.TooMany, w.said(secret))
		require.True(t, w.isDeleted(secret))
		require.Zero(t, w.auth.Calls(sessiontest.Login))
		require.Contains(t, w.log.String(), "too many are waiting")
		require.Contains(t, w.ask("!whoami"), "Please log in", "and then it goes on")
	})
}

func TestCommandThatTakesTooLongIsAnsweredAllTheSame(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t, botcmd.WithTimeout(20*time.Second))
		w.register("slow", func(c command) {
			<-c.Ctx.Done()
			w.cmds.ReplyError(c, c.Ctx.Err())
		})
		w.start()
		message := w.say("!slow")
		time.Sleep(19 * time.Second)
		require.Empty(t, w.said(message))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, english.TookTooLong, w.said(message))
	})
}

func TestOldCommandIsNotCarriedOut(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		old := func(text string, age time.Duration) id.EventID {
			evt := textEvent(room, alice, text)
			evt.Timestamp = time.Now().Add(-age).UnixMilli()
			message := w.post(evt)
			synctest.Wait()
			return message
		}
		require.Contains(t, w.said(old("!whoami", 9*time.Minute)), "Please log in")
		require.Equal(t, english.TooOld, w.said(old("!whoami", 11*time.Minute)))
		message := old(login, 11*time.Minute)
		require.Equal(t, english.TooOld, w.said(message))
		require.True(t, w.isDeleted(message))
		require.Zero(t, w.auth.Calls(sessiontest.Login))
		require.Contains(t, w.said(old("!whoami", -3*time.Hour)), "Please log in", "a clock that is ahead")
		w.mu.Lock()
		w.renamed = time.Now().Add(-time.Minute)
		w.mu.Unlock()
		require.Equal(t, english.TooOld, w.said(old("!whoami", 11*time.Minute)), "a new name is no new member")
		w.mu.Lock()
		w.renamed = time.Time{}
		w.mu.Unlock()
		message = old(login, 25*time.Hour)
		require.Empty(t, w.said(message), "from before the bot was in the room")
		require.False(t, w.isDeleted(message))
	})
}

func TestStopWaitsForCommands(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t)
		w.register("slow", func(c command) {
			time.Sleep(8 * time.Second)
			w.cmds.Reply(c, "done")
		})
		w.start()
		message := w.say("!slow")
		require.NoError(t, w.stop())
		require.Equal(t, "done", w.said(message))
		late := textEvent(room, alice, "!slow")
		late.Content.Parsed = &event.MessageEventContent{MsgType: event.MsgText, Body: "!slow"}
		late.ID = "$late"
		w.cmds.Handle(t.Context(), late)
		require.NoError(t, w.cmds.Close())
		require.Empty(t, w.said(late.ID))
		require.Contains(t, w.log.String(), "the bot is stopping")
	})
}

func TestStopGivesUpCommandsThatTakeTooLong(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t)
		w.register("slow", func(c command) {
			<-c.Ctx.Done()
			w.cmds.ReplyError(c, c.Ctx.Err())
		})
		w.start()
		message, next := w.say("!slow"), w.say("!slow")
		began := time.Now()
		require.ErrorContains(t, w.stop(), "2 commands were given up")
		require.Equal(t, 10*time.Second, time.Since(began))
		require.Equal(t, english.Closed, w.said(message))
		require.NotContains(t, w.said(next), "done")
	})
}

func TestPanicCostsOneCommand(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t, botcmd.WithLanguage(func(context.Context, id.UserID) botcmd.Language { panic("a bug") }))
		w.register("panic", func(command) { panic("another") })
		w.register("works", func(c command) { w.cmds.Reply(c, "yes") })
		w.start()
		w.say("!login")
		w.say("!panic")
		require.Equal(t, "yes", w.ask("!works"))
		require.Contains(t, w.log.String(), "Panic in a command")
	})
}

func TestCommandsWithArgumentsTheyDoNotTakeSaySo(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		w.say(login)
		require.Equal(t, "Please send !logout and nothing else.", w.ask("!logout now"))
		require.Equal(t, "Please send !whoami and nothing else.", w.ask("!whoami\nplease"))
		require.True(t, w.loggedIn())
		require.Contains(t, w.ask("!login  \n "), "!login EMAIL PASSWORD")
		require.Equal(t, "You are logged in as "+email+".", w.ask("!whoami  "))
		require.Equal(t, english.LoggedOut, w.ask("!LOGOUT"))
		require.Equal(t, "Please log in first: !login", w.ask("!whoami"))
	})
}

func TestUnknownCommandIsLeftToOtherBotsWhereTheyAre(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		require.Equal(t, english.UnknownCommand, w.ask("!`[click](https://evil.example)"), "and not repeated")
		w.has(bob, event.MembershipJoin)
		require.Empty(t, w.ask("!unknown"))
		require.Empty(t, w.ask("hello"))
	})
}

func TestAnswerIsPlainAndMentionsNobodyElse(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t)
		text := "<b>@room</b> [x](https://evil.example) @bob:matrix.example"
		w.register("echo", func(c command) { w.cmds.Reply(c, text) })
		w.start()
		require.Equal(t, text, w.ask("!echo"))
		sent := w.answers[0].raw
		require.Equal(t, "m.notice", sent["msgtype"])
		require.NotContains(t, sent, "formatted_body")
		require.Equal(t, map[string]any{"user_ids": []any{alice.String()}}, sent["m.mentions"])
	})
}

func TestAnswerStaysInTheThread(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		message := textEvent(room, alice, "!whoami")
		message.Content.Raw["m.relates_to"] = map[string]any{"rel_type": "m.thread", "event_id": "$thread"}
		w.post(message)
		synctest.Wait()
		require.Contains(t, w.said(message.ID), "Please log in")
		relates := w.answers[0].raw["m.relates_to"].(map[string]any)
		require.Equal(t, "m.thread", relates["rel_type"])
		require.Equal(t, "$thread", relates["event_id"])
	})
}

func TestOtherBotsAreNotAnswered(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		notice := textEvent(room, alice, "!whoami")
		notice.Content.Raw["msgtype"] = "m.notice"
		w.post(notice, textEvent(room, bot, "!whoami"))
		synctest.Wait()
		require.Zero(t, w.called("send"))
	})
}

func TestLogoutWhileTheStoreIsAwaySaysWhatHolds(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		store := storetest.NewFaultStore()
		w := newWorldOn(t, store).start()
		w.say(login)
		store.Inject(storetest.Away)
		message := w.say("!logout")
		time.Sleep(30 * time.Second)
		require.Equal(t, english.LoggedOutHere, w.said(message))
		store.Clear()
	})
}

func TestLogoutRemovesTheLinkIfItShould(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t, botcmd.WithUnlink()).start()
		w.auth.Link(alice.String(), email)
		require.Equal(t, "You are logged in as "+email+".", w.ask("!whoami"))
		require.Equal(t, english.LoggedOut, w.ask("!logout"))
		require.False(t, w.auth.Linked(alice.String()))
	})
}

func TestBotSpeaksTheLanguageOfTheUserAndItsOwnPrefix(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t, botcmd.WithLanguage(func(_ context.Context, user id.UserID) botcmd.Language {
			if user == alice {
				return botcmd.German()
			}
			return botcmd.English()
		}))
		w.proc.PreValidator = commands.ValidatePrefixCommand[*session.Service]("!mana")
		w.start()
		require.Equal(t, "Bitte melde dich zuerst an: !mana login", w.ask("!mana whoami"))
		require.Empty(t, w.ask("!whoami"))
		require.Equal(t, "Du bist angemeldet als "+email+".", w.ask("!mana login "+email+" "+password))
		others := w.post(textEvent(bobsRoom, bob, "!mana whoami"))
		synctest.Wait()
		require.Equal(t, "Please log in first: !mana login", w.said(others))
		edit := w.post(editEvent(alice, "$none", "!mana login a@b.example c"))
		synctest.Wait()
		require.True(t, w.isDeleted(edit))
	})
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t)
		for name, opt := range map[string]botcmd.Option{
			"no language": botcmd.WithLanguage(nil), "no web login": botcmd.WithWebLogin(nil), "no time": botcmd.WithTimeout(0),
			"no concurrency": botcmd.WithConcurrency(0), "no way to log in": botcmd.WithoutPasswords(),
		} {
			_, err := botcmd.New(commands.NewProcessor[*session.Service](w.proc.Client), w.svc, opt)
			require.ErrorContains(t, err, "botcmd: ", name)
		}
		_, err := botcmd.New(w.proc, w.svc)
		require.ErrorContains(t, err, `there is a command "login" already`)
		_, err = botcmd.New(w.proc, nil)
		require.Error(t, err)
	})
}

func TestLoginsBeyondTheServersLimitSayHowLongToWait(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		for range 10 {
			require.Contains(t, w.ask("!login "+email+" wrong"), "is wrong")
		}
		require.Equal(t, strings.ReplaceAll(english.RateLimited, "{wait}", "1 minute"), w.ask(login))
	})
}
