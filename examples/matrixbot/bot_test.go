//go:build goolm

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/mana/session/sessiontest"
)

func TestListIsKeptAndPublishedAsTheUser(t *testing.T) {
	eachKind(t, func(t *testing.T, encrypted bool) {
		p := newPlace(t)
		p.start()
		alice := p.visitor(encrypted, mayDelete)

		require.Contains(t, alice.asks("!add call mum"), "Please log in")
		alice.logsIn()
		require.Equal(t, "Nothing to do.", alice.asks("!list"))
		require.Equal(t, "1. call mum", alice.asks("!add call mum"))
		require.Equal(t, "1. call mum\n2. buy milk", alice.asks("!add   buy milk "))
		require.Equal(t, "1. buy milk", alice.asks("!done 1"))
		require.Equal(t, "Published, 1 to do.", alice.asks("!publish"))
		published, ok := p.backend.list(p.owner.ID)
		require.True(t, ok)
		require.Equal(t, "buy milk", published)

		require.Equal(t, "You are logged out.", alice.asks("!logout"))
		require.Contains(t, alice.asks("!list"), "Please log in")
		require.Contains(t, alice.asks("!publish"), "Please log in")
	})
}

func TestCommandsThatMakeNoSenseHaveAnAnswer(t *testing.T) {
	p := newPlace(t)
	p.start()
	alice := p.visitor(false, mayDelete)
	alice.logsIn()

	require.Contains(t, alice.asks("!add"), "What is to be done?")
	require.Contains(t, alice.asks("!add  \n "), "What is to be done?")
	require.Equal(t, "1. one\nand two", alice.asks("!add one\nand two"), "lines belong to the item")
	for _, number := range []string{"", "0", "2", "-1", "one", "1 2", "99999999999999999999"} {
		require.Contains(t, alice.asks("!done "+number), "no such item", number)
	}
	require.Contains(t, alice.asks("!nonsense"), "I do not know that command")
	require.Contains(t, alice.asks("!login"), "!login EMAIL PASSWORD")
	require.Contains(t, alice.asks("!login "+email), "!login EMAIL PASSWORD")
}

func TestPasswordIsGoneFromTheRoom(t *testing.T) {
	eachKind(t, func(t *testing.T, encrypted bool) {
		p := newPlace(t)
		p.start()
		alice := p.visitor(encrypted, mayDelete)

		message := alice.logsIn()
		require.Empty(t, alice.stored(message).Content.Raw, "what the homeserver hands out")
		require.NotNil(t, alice.stored(message).Unsigned.RedactedBecause)
		require.Equal(t, p.bot, alice.stored(message).Unsigned.RedactedBecause.Sender)
	})
}

func TestEditThatRepeatsThePasswordIsGoneToo(t *testing.T) {
	eachKind(t, func(t *testing.T, encrypted bool) {
		p := newPlace(t)
		p.start()
		alice := p.visitor(encrypted, mayDelete)
		message := alice.logsIn()

		edit := alice.edits(message, "!login "+email+" "+password+"!")
		require.Contains(t, alice.hears(edit), "I have deleted your edit")
		require.Empty(t, alice.stored(edit).Content.Raw)
		require.Equal(t, 1, p.auth.Calls(sessiontest.Login), "an edit logs nobody in")
	})
}

func TestEditFromBeforeTheBotCameIsGoneToo(t *testing.T) {
	eachKind(t, func(t *testing.T, encrypted bool) {
		p := newPlace(t)
		stop := p.start()
		alice := p.visitor(encrypted, mayDelete)
		stop()
		message := alice.says("!login " + email + " " + password)
		edit := alice.edits(message, "!login "+email+" "+password+"!")
		p.start()
		require.Contains(t, alice.hears(message), "You are logged in")
		require.Contains(t, alice.hears(edit), "An edit is not carried out")
		require.Empty(t, alice.stored(message).Content.Raw)
		require.Empty(t, alice.stored(edit).Content.Raw)
		require.Equal(t, 1, p.auth.Calls(sessiontest.Login))
	})
}

func TestEditOfAnEditIsGoneToo(t *testing.T) {
	eachKind(t, func(t *testing.T, encrypted bool) {
		p := newPlace(t)
		stop := p.start()
		alice := p.visitor(encrypted, mayDelete)
		stop()
		message := alice.says("!login " + email + " " + password)
		edit := alice.edits(message, "log in "+email+" "+password)
		again := alice.edits(edit, email+" "+password)
		p.start()
		require.Contains(t, alice.hears(message), "You are logged in")
		for _, gone := range []id.EventID{message, edit, again} {
			require.Empty(t, alice.stored(gone).Content.Raw)
		}
	})
}

func TestLoginInAReplyIsALogin(t *testing.T) {
	eachKind(t, func(t *testing.T, encrypted bool) {
		p := newPlace(t)
		p.start()
		alice := p.visitor(encrypted, mayDelete)
		before := alice.says("!list")
		require.Contains(t, alice.hears(before), "Please log in")
		content := &event.MessageEventContent{
			MsgType: event.MsgText, Body: "> <" + p.bot.String() + "> Please log in first: !login\n\n!login " + email + " " + password,
			RelatesTo: new(event.RelatesTo).SetReplyTo(before),
		}
		sent, err := alice.client.SendMessageEvent(p.ctx, alice.room, event.EventMessage, content)
		require.NoError(t, err)
		require.Contains(t, alice.hears(sent.EventID), "You are logged in")
		require.Empty(t, alice.stored(sent.EventID).Content.Raw)
	})
}

func TestPasswordIsRefusedWhereOthersCanRead(t *testing.T) {
	eachKind(t, func(t *testing.T, encrypted bool) {
		p := newPlace(t)
		p.start()
		third := p.person() // invited, and not yet there
		alice := p.visitor(encrypted, mayDelete, third.client.UserID)

		message, reply, err := alice.ask(p.ctx, alice.room, "!login "+email+" "+password)
		require.NoError(t, err)
		require.Contains(t, reply, "Others can read this room")
		require.Empty(t, alice.stored(message).Content.Raw)
		require.Zero(t, p.auth.Calls(sessiontest.Login))
	})
}

func TestPasswordIsRefusedWhereTheBotMayNotDeleteIt(t *testing.T) {
	eachKind(t, func(t *testing.T, encrypted bool) {
		p := newPlace(t)
		p.start()
		alice := p.visitor(encrypted, mayNotDelete)

		message, reply, err := alice.ask(p.ctx, alice.room, "!login "+email+" "+password)
		require.NoError(t, err)
		require.Contains(t, reply, "I may not delete your password")
		require.NotEmpty(t, alice.stored(message).Content.Raw)
		require.Zero(t, p.auth.Calls(sessiontest.Login))
	})
}

func TestCommandRightAfterTheInvitationIsAnswered(t *testing.T) {
	eachKind(t, func(t *testing.T, encrypted bool) {
		p := newPlace(t)
		p.start()
		alice := p.person()
		for range 5 {
			alice.invite(encrypted, mayDelete)
			require.Contains(t, alice.asks("!list"), "Please log in")
		}
	})
}

func TestCommandsSentWhileTheBotWasAwayAreAnswered(t *testing.T) {
	eachKind(t, func(t *testing.T, encrypted bool) {
		p := newPlace(t)
		stop := p.start()
		alice := p.visitor(encrypted, mayDelete)
		alice.logsIn()
		before := alice.says("!add call mum")
		require.Equal(t, "1. call mum", alice.hears(before))

		stop()
		milk := alice.says("!add buy milk")
		list := alice.says("!list")
		p.start()
		require.Equal(t, "1. call mum\n2. buy milk", alice.hears(milk))
		require.Equal(t, "1. call mum\n2. buy milk", alice.hears(list), "and none twice")
		require.Equal(t, "1. call mum", alice.asks("!done 2"))
	})
}

func TestInvitationWhileTheBotWasAwayIsFollowed(t *testing.T) {
	eachKind(t, func(t *testing.T, encrypted bool) {
		p := newPlace(t)
		stop := p.start()
		alice := p.visitor(encrypted, mayDelete)
		stop()
		alice.invite(encrypted, mayDelete)
		sent := alice.says("!list")
		p.start()
		require.Contains(t, alice.hears(sent), "Please log in")
	})
}

func TestBotWithAnAccessTokenInsteadOfAPassword(t *testing.T) {
	p := newPlace(t)
	client, err := mautrix.NewClient(server.URL, "", "")
	require.NoError(t, err)
	login, err := client.Login(p.ctx, &mautrix.ReqLogin{
		Type:       mautrix.AuthTypePassword,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: p.account.user},
		Password:   p.account.password,
	})
	require.NoError(t, err)
	p.account.user, p.account.password, p.account.accessToken = "", "", login.AccessToken

	stop := p.start()
	alice := p.visitor(true, mayDelete)
	require.Contains(t, alice.asks("!list"), "Please log in")
	stop()
	p.start()
	require.Contains(t, alice.asks("!list"), "Please log in", "with the keys it had")
}

func TestBotThatIsKickedOutAnswersElsewhere(t *testing.T) {
	p := newPlace(t)
	p.start()
	alice := p.visitor(false, mayDelete)
	bob := p.visitor(false, mayDelete)

	alice.says("!list")
	_, err := alice.client.KickUser(p.ctx, alice.room, &mautrix.ReqKickUser{UserID: p.bot})
	require.NoError(t, err)
	require.Contains(t, bob.asks("!list"), "Please log in")
	alice.invite(false, mayDelete)
	require.Contains(t, alice.asks("!list"), "Please log in")
}

func TestWhoIsKickedBeforeTheAnswerCostsNobodyElseTheirs(t *testing.T) {
	p := newPlace(t)
	p.start()
	alice := p.person()
	bob := p.visitor(false, mayDelete, alice.client.UserID)
	_, err := alice.client.JoinRoomByID(p.ctx, bob.room)
	require.NoError(t, err)
	alice.room = bob.room
	require.NoError(t, bob.joined(p.ctx, bob.room, alice.client.UserID))
	alice.says("!login " + email + " " + password)
	_, err = bob.client.KickUser(p.ctx, bob.room, &mautrix.ReqKickUser{UserID: alice.client.UserID})
	require.NoError(t, err)
	require.Contains(t, bob.asks("!list"), "Please log in")
	alice.invite(false, mayDelete)
	require.Contains(t, alice.asks("!list"), "Please log in", "bob could read the password")
	alice.logsIn()
}

func TestWhoCallsThemselvesLikeTheBotIsStillAThird(t *testing.T) {
	p := newPlace(t)
	p.start()
	impostor := p.person()
	require.NoError(t, impostor.client.SetDisplayName(p.ctx, p.bot.String()))
	alice := p.visitor(false, mayDelete, impostor.client.UserID)
	_, err := alice.client.SendStateEvent(p.ctx, alice.room, event.StateRoomName, "", &event.RoomNameEventContent{Name: p.bot.String()})
	require.NoError(t, err)
	require.Contains(t, alice.asks("!login "+email+" "+password), "Others can read this room")
	require.Zero(t, p.auth.Calls(sessiontest.Login))
}
