package botcmd

import (
	"fmt"
	"time"
)

// German is the table of the German sentences.
func German() Language {
	return Language{
		NotLoggedIn:        "Bitte melde dich zuerst an: {prefix}login",
		InvalidCredentials: "Diese E-Mail-Adresse oder das Passwort stimmt nicht. Bitte prüfe beides und sende {prefix}login noch einmal.",
		EmailNotVerified:   "Bitte bestätige zuerst deine E-Mail-Adresse: Öffne den Link in der E-Mail, die du bei der Registrierung bekommen hast. Sende danach {prefix}login noch einmal.",
		RateLimited:        "Es gab zu viele Anmeldungen. Bitte versuche es in {wait} noch einmal.",
		AuthUnavailable:    "Der Anmeldeserver antwortet gerade nicht. Du bist dadurch nicht abgemeldet. Bitte versuche es in {wait} noch einmal.",
		StoreUnavailable:   "Ich kann das gerade nicht nachsehen. Bitte versuche es in {wait} noch einmal.",
		ServiceKeyRejected: "Der Anmeldeserver akzeptiert mich gerade nicht. Noch ein Versuch hilft nicht: Bitte sag den Betreibern dieses Bots Bescheid.",
		TooLarge:           "Das ist mehr, als ich für dich aufbewahren kann. Bitte lösche zuerst etwas.",
		InvalidUserID:      "Mit deiner Matrix-ID kann ich nicht arbeiten. Bitte nimm ein anderes Matrix-Konto, oder sag den Betreibern dieses Bots Bescheid.",
		Closed:             "Ich werde gerade neu gestartet. Bitte versuche es in einer Minute noch einmal.",
		LoginExpired:       "Diese Anmeldung ist nicht mehr offen: Ein Link gilt zehn Minuten, einmal, nur für dich und nur in dem Raum, in dem du ihn bekommen hast. Bitte sende {prefix}login für einen neuen.",
		TookTooLong:        "Das hat zu lange gedauert, und ich habe aufgegeben. Bitte versuche es in einer Minute noch einmal.",
		Failed:             "Das hat nicht geklappt. Bitte versuche es noch einmal, und sag den Betreibern dieses Bots Bescheid, wenn es dabei bleibt.",

		LoggedIn:       "Du bist angemeldet als {email}.",
		LoggedInQuiet:  "Du bist angemeldet.",
		LoggedOut:      "Du bist abgemeldet.",
		LoggedOutHere:  "Du bist hier abgemeldet. Andere Bots folgen, sobald sie können.",
		LoginUsage:     "Bitte sende: {prefix}login E-MAIL PASSWORT, in einer Zeile, in einem Raum nur mit uns beiden. Das Passwort ist alles hinter der E-Mail-Adresse, auch Leerzeichen und Anführungszeichen.",
		CodeUsage:      "Bitte sende: {prefix}code CODE, mit dem Code, den die Seite angezeigt hat.",
		NoArguments:    "Bitte sende nur {prefix}{command}.",
		UnknownCommand: "Diesen Befehl kenne ich nicht.",
		OpenLink:       "Bitte melde dich auf dieser Seite an: {link}\nSie gilt zehn Minuten und nur für dich. Sende mir danach hier den Code, den sie anzeigt: {prefix}login CODE",
		NoLinkHere:     "Andere können hier mitlesen, und der Link zur Anmeldung ist nur für dich. Bitte sende {prefix}login in einem Raum nur mit uns beiden.",
		WrongCode:      "Das ist nicht der Code, den deine Seite angezeigt hat. Ein Code gilt nur für die Person, die um den Link gebeten hat, und nur in dem Raum, in dem sie das tat. Bitte prüfe ihn, oder sende {prefix}login für einen neuen Link.",

		OthersCanRead:  "Andere können hier mitlesen, oder könnten es, wenn sie ihre Einladung annehmen. Ich habe deine Nachricht gelöscht und das Passwort nicht benutzt. Bitte ändere es, und melde dich in einem Raum nur mit uns beiden an.",
		MayNotDelete:   "Ich darf dein Passwort in diesem Raum nicht löschen und habe es deshalb nicht benutzt. Bitte lösche deine Nachricht selbst, und mach mich zum Moderator, bevor du es wieder versuchst.",
		NotDeleted:     "Ich konnte dein Passwort in diesem Raum nicht löschen und habe es deshalb nicht benutzt. Bitte lösche deine Nachricht selbst, und versuche es in einer Minute noch einmal.",
		NoPasswords:    "Ich nehme hier keine Passwörter an und habe deine Nachricht gelöscht. Bitte sende nur {prefix}login: Du bekommst einen Link zu einer Seite, die es abfragt.",
		EditDeleted:    "Ich habe deine Bearbeitung gelöscht, weil sie ein Passwort enthielt. Bearbeitungen führe ich nicht aus: Bitte sende eine neue Nachricht.",
		EditNotDeleted: "Deine Bearbeitung enthält ein Passwort, und ich konnte sie nicht löschen. Bitte lösche sie selbst.",

		TooOld:  "Als du das geschrieben hast, war ich nicht da. Bitte sende es noch einmal.",
		TooMany: "Du hast mehr gesendet, als ich bearbeiten kann. Bitte warte auf meine Antworten, und sende dies dann noch einmal.",

		// In the dative, as it stands behind "in".
		Wait: func(d time.Duration) string {
			n, unit := count(d)
			name := map[time.Duration]string{time.Second: "Sekunde", time.Minute: "Minute", time.Hour: "Stunde"}[unit]
			if n != 1 {
				return fmt.Sprintf("%d %sn", n, name)
			}
			return "einer " + name
		},
	}
}
