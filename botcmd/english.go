package botcmd

import (
	"fmt"
	"time"
)

// English is the table of the English sentences.
func English() Language {
	return Language{
		NotLoggedIn:        "Please log in first: {prefix}login",
		InvalidCredentials: "That email or password is wrong. Please check both and send {prefix}login again.",
		EmailNotVerified:   "Please confirm your email address first: open the link in the email that you were sent when you registered. Then send {prefix}login again.",
		RateLimited:        "There were too many logins. Please try again in {wait}.",
		AuthUnavailable:    "The login server does not answer just now. You are not logged out by this. Please try again in {wait}.",
		StoreUnavailable:   "I cannot look that up just now. Please try again in {wait}.",
		ServiceKeyRejected: "The login server does not accept me just now. Trying again does not help: please tell whoever runs this bot.",
		TooLarge:           "That is more than I can keep for you. Please delete something first.",
		InvalidUserID:      "I cannot work with your Matrix ID. Please use another Matrix account, or tell whoever runs this bot.",
		Closed:             "I am being restarted. Please try again in a minute.",
		LoginExpired:       "This login is no longer open: a link holds for ten minutes, once, for whoever asked for it in the room where they did. Please send {prefix}login for a new one.",
		TookTooLong:        "That took too long, and I have given up. Please try again in a minute.",
		Failed:             "That did not work. Please try again, and tell whoever runs this bot if it goes on.",

		LoggedIn:       "You are logged in as {email}.",
		LoggedInQuiet:  "You are logged in.",
		LoggedOut:      "You are logged out.",
		LoggedOutHere:  "You are logged out here. Other bots will follow as soon as they can.",
		LoginUsage:     "Please send: {prefix}login EMAIL PASSWORD, on one line, in a room with nobody but us. The password is everything behind the email address, spaces and quotes included.",
		CodeUsage:      "Please send: {prefix}code CODE, with the code that the page showed.",
		NoArguments:    "Please send {prefix}{command} and nothing else.",
		UnknownCommand: "I do not know that command.",
		OpenLink:       "Please log in on this page: {link}\nIt holds for ten minutes and is for you alone. Then send me the code that it shows, here: {prefix}login CODE",
		NoLinkHere:     "Others can read this room, and the link to log in is for you alone. Please send {prefix}login in a room with nobody but us.",
		WrongCode:      "That is not the code that your page showed. A code is good only for whoever asked for the link, in the room where they did. Please check it, or send {prefix}login for a new link.",

		OthersCanRead:  "Others can read this room, or could after accepting their invitation. I have deleted your message and not used the password. Please change it, and log in in a room with nobody but us.",
		MayNotDelete:   "I may not delete your password from this room, so I have not used it. Please delete your message yourself, and make me a moderator before you try again.",
		NotDeleted:     "I could not delete your password from this room, so I have not used it. Please delete your message yourself and try again in a minute.",
		NoPasswords:    "I take no passwords here, and have deleted your message. Please send {prefix}login and nothing else: you get a link to a page that asks for it.",
		EditDeleted:    "I have deleted your edit, because it held a password. An edit is not carried out: please send a new message.",
		EditNotDeleted: "Your edit holds a password, and I could not delete it. Please delete it yourself.",

		TooOld:  "I was away when you wrote this. Please send it again.",
		TooMany: "You have sent more than I can keep up with. Please wait for my answers, and send this again.",

		Wait: func(d time.Duration) string {
			n, unit := count(d)
			name := map[time.Duration]string{time.Second: "second", time.Minute: "minute", time.Hour: "hour"}[unit]
			if n != 1 {
				name += "s"
			}
			return fmt.Sprintf("%d %s", n, name)
		},
	}
}
