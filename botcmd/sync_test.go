package botcmd_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
)

func TestDroppedSyncIsTakenUpAgain(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		synctest.Wait()
		w.fail("sync", 3, dropped, "")
		require.Equal(t, english.LoggedOut, w.ask("!logout"), "the sync that was open still answers")
		lost := w.say("!logout")
		require.Empty(t, w.said(lost))
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, english.LoggedOut, w.said(lost))
	})
}

func TestRunReportsARefusedToken(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t)
		w.fail("sync", 0, http.StatusUnauthorized, `{"errcode":"M_UNKNOWN_TOKEN"}`)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		require.ErrorIs(t, w.cmds.Run(ctx), mautrix.MUnknownToken)
	})
}

func TestBotThatHasOnlyATokenLearnsItsName(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t)
		w.proc.Client.UserID = ""
		w.startAfresh()
		time.Sleep(time.Second)
		require.Equal(t, "You are logged in as "+email+".", w.ask(login), "and does not take itself for a third")
		require.NoError(t, w.stop())
		require.Equal(t, bot, w.proc.Client.UserID)

		w = newWorld(t)
		w.proc.Client.UserID = ""
		w.fail("whoami", 0, http.StatusUnauthorized, `{"errcode":"M_UNKNOWN_TOKEN"}`)
		require.ErrorIs(t, w.cmds.Run(t.Context()), mautrix.MUnknownToken)
	})
}

func TestInvitationIsFollowed(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		w.fail("join", 1, http.StatusTooManyRequests, `{"errcode":"M_LIMIT_EXCEEDED"}`)
		invite := memberEvent(bot, event.MembershipInvite)
		invite.RoomID, invite.Sender = "!new:matrix.example", alice
		w.post(invite)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, 2, w.called("join"))
	})
}

func TestBotThatForgotItsPlaceCarriesOutNothingTwice(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t)
		earlier := textEvent(room, alice, "!whoami")
		earlier.Timestamp -= 1000
		w.post(earlier)
		w.startAfresh()
		synctest.Wait()
		require.Empty(t, w.said(earlier.ID))
		require.Contains(t, w.ask("!whoami"), "Please log in")
	})
}

func TestCommandRightAfterTheInvitationIsAnswered(t *testing.T) {
	inWorld(t, func(t *testing.T) {
		w := newWorld(t).start()
		joined := memberEvent(bot, event.MembershipJoin) // in one sync with the command
		joined.RoomID = room
		message := w.post(joined, textEvent(room, alice, "!whoami"))
		synctest.Wait()
		require.Contains(t, w.said(message), "Please log in")
	})
}
