package weblogin

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// texts is all that the page says in one language. A text with %s takes the bot's
// name, the command, or a time to wait.
type texts struct {
	Lang string
	Bot  string // for a bot that has no name

	Error, For, Account        string
	LogIn                      string
	FormWarning, FormHint      string
	Email, Password, Continue  string
	Done, SendCode, Letters    string
	CodeWarning, CodeHint      string
	WrongPassword, Unverified  string
	Missing, Stale             string
	RateLimited, AuthAway      string
	StoreAway, Failed          string
	GoneTitle, Gone            string
	NoLinkTitle, NoLink        string
	TooManyPasswords           string
	ForeignTitle, Foreign      string
	BadRequestTitle, NotAForm  string
	TooLarge, MethodNotAllowed string

	wait func(time.Duration) string
}

var english = texts{
	Lang: "en", Bot: "the bot",
	Error:   "Error",
	For:     "Matrix ID",
	Account: "Account",

	LogIn:       "Log in to %s",
	FormWarning: "Is this your Matrix ID, and did you ask the bot for this link yourself? If not, close this page: whoever sent you here would get into your account.",
	Email:       "Email",
	Password:    "Password",
	Continue:    "Continue",
	FormHint:    "Next, this page shows you a code to send to the bot. You are logged in once it has the code.",

	Done:        "One more step",
	SendCode:    "Send this message to the bot, in the room where you asked for the link:",
	Letters:     "The letters, one by one:",
	CodeWarning: "Give the code to nobody. It gets you logged in, and whoever else asks you for it wants to get into your account.",
	CodeHint:    "It works once, within 10 minutes, for this Matrix ID in that room alone. You can close this page afterwards.",

	WrongPassword: "This email or password is wrong. Please check both and try again.",
	Unverified:    "This email address is not confirmed yet. Please open the link in the email that you were sent when you registered, then try again.",
	Missing:       "Please enter both your email and your password.",
	Stale:         "This form was out of date, or your browser keeps no cookies for this page. Your password was not used. Please try again.",
	RateLimited:   "There were too many logins. Please try again in %s.",
	AuthAway:      "The login server does not answer just now. Please try again in a minute.",
	StoreAway:     "This page cannot look up your link just now. Please try again in a minute.",
	Failed:        "That did not work. Please try again, and tell whoever runs the bot if it goes on.",

	GoneTitle:        "This link no longer works",
	Gone:             "A login link works once and for 10 minutes, and a newer one takes its place. To get a new link, send %s to the bot.",
	TooManyPasswords: "There were too many wrong passwords. To get a new link, send %s to the bot.",
	NoLinkTitle:      "There is no login here",
	NoLink:           "This page opens with a link that the bot sends you. To get one, send %s to the bot. If you have one, check that you have all of it.",

	ForeignTitle:     "Not sent from this page",
	Foreign:          "Another page sent this form, so it was not used. Please open the link that the bot has sent you.",
	BadRequestTitle:  "This cannot be read",
	NotAForm:         "What was sent is not the form of this page.",
	TooLarge:         "What was sent is too large.",
	MethodNotAllowed: "This page can be opened, and its form be sent, and nothing else.",

	wait: func(d time.Duration) string { return count(d, "second", "minute", "s") },
}

var german = texts{
	Lang: "de", Bot: "dem Bot",
	Error:   "Fehler",
	For:     "Matrix-ID",
	Account: "Konto",

	LogIn:       "Bei %s anmelden",
	FormWarning: "Ist das deine Matrix-ID, und hast du den Bot selbst um diesen Link gebeten? Wenn nicht, schließ diese Seite: Wer dich hierher geschickt hat, käme sonst in dein Konto.",
	Email:       "E-Mail-Adresse",
	Password:    "Passwort",
	Continue:    "Weiter",
	FormHint:    "Danach zeigt dir diese Seite einen Code, den du dem Bot sendest. Sobald er ihn hat, bist du angemeldet.",

	Done:        "Noch ein Schritt",
	SendCode:    "Sende dem Bot diese Nachricht, in dem Raum, in dem du um den Link gebeten hast:",
	Letters:     "Die Buchstaben einzeln:",
	CodeWarning: "Gib den Code niemandem. Er meldet dich an, und wer dich sonst danach fragt, will in dein Konto.",
	CodeHint:    "Er gilt einmal, zehn Minuten lang, nur für diese Matrix-ID und nur in jenem Raum. Danach kannst du diese Seite schließen.",

	WrongPassword: "Diese E-Mail-Adresse oder das Passwort stimmt nicht. Bitte prüfe beides und versuche es noch einmal.",
	Unverified:    "Diese E-Mail-Adresse ist noch nicht bestätigt. Bitte öffne den Link in der E-Mail, die du bei der Registrierung bekommen hast, und versuche es dann noch einmal.",
	Missing:       "Bitte gib E-Mail-Adresse und Passwort ein.",
	Stale:         "Dieses Formular war veraltet, oder dein Browser speichert für diese Seite keine Cookies. Dein Passwort wurde nicht benutzt. Bitte versuche es noch einmal.",
	RateLimited:   "Es gab zu viele Anmeldungen. Bitte versuche es in %s noch einmal.",
	AuthAway:      "Der Anmeldeserver antwortet gerade nicht. Bitte versuche es in einer Minute noch einmal.",
	StoreAway:     "Diese Seite kann deinen Link gerade nicht nachsehen. Bitte versuche es in einer Minute noch einmal.",
	Failed:        "Das hat nicht geklappt. Bitte versuche es noch einmal, und sag den Betreibern des Bots Bescheid, wenn es dabei bleibt.",

	GoneTitle:        "Dieser Link gilt nicht mehr",
	Gone:             "Ein Anmeldelink gilt einmal und zehn Minuten lang, und ein neuer ersetzt ihn. Sende dem Bot %s, um einen neuen zu bekommen.",
	TooManyPasswords: "Das Passwort war zu oft falsch. Sende dem Bot %s, um einen neuen Link zu bekommen.",
	NoLinkTitle:      "Hier gibt es keine Anmeldung",
	NoLink:           "Diese Seite öffnet sich mit einem Link, den der Bot dir sendet. Sende ihm %s, um einen zu bekommen. Wenn du einen hast, prüfe, ob er vollständig ist.",

	ForeignTitle:     "Nicht von dieser Seite gesendet",
	Foreign:          "Eine andere Seite hat dieses Formular gesendet, deshalb wurde es nicht benutzt. Bitte öffne den Link, den der Bot dir gesendet hat.",
	BadRequestTitle:  "Das lässt sich nicht lesen",
	NotAForm:         "Was gesendet wurde, ist nicht das Formular dieser Seite.",
	TooLarge:         "Was gesendet wurde, ist zu groß.",
	MethodNotAllowed: "Diese Seite lässt sich öffnen und ihr Formular absenden, sonst nichts.",

	wait: func(d time.Duration) string { return count(d, "Sekunde", "Minute", "n") },
}

// count says a time as people do, rounded up.
func count(d time.Duration, second, minute, plural string) string {
	n, unit := int64((d+time.Second-1)/time.Second), second
	if n > 90 {
		n, unit = (n+59)/60, minute
	}
	if n != 1 {
		unit += plural
	}
	return fmt.Sprintf("%d %s", n, unit)
}

// preferred is the language that the header Accept-Language likes best, or English.
func preferred(accept string) *texts {
	best, liked := &english, 0.0
	for i, part := range strings.Split(accept, ",") {
		if i == 20 {
			break
		}
		tag, rest, _ := strings.Cut(part, ";")
		quality := 1.0
		if q, ok := strings.CutPrefix(strings.TrimSpace(rest), "q="); ok {
			var err error
			if quality, err = strconv.ParseFloat(q, 64); err != nil {
				continue
			}
		}
		primary, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(tag)), "-")
		for _, t := range []*texts{&english, &german} {
			if primary == t.Lang && quality > liked {
				best, liked = t, quality
			}
		}
	}
	return best
}
