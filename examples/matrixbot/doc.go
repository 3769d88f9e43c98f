// Matrixbot is a bot that keeps todo lists for users who are logged in: an example
// of package botcmd. What it does is in bot.go; the other files connect it.
//
//	go run . demo
//
// needs nothing but Go: it starts a homeserver, an auth server and a backend of
// its own on loopback, and shows a user talking to the bot in an encrypted room.
// The first time takes some minutes, in which the homeserver is built. Against real
// servers:
//
//	export MATRIX_PASSWORD=… MATRIX_PICKLE_KEY=…
//	go run . -homeserver https://matrix.example.com -user todo \
//		-database todo.db -backend https://api.example.com -language de
//
// A homeserver with the Matrix Authentication Service has no password login: set
// MATRIX_ACCESS_TOKEN instead, and leave out -user. MATRIX_PICKLE_KEY, which
// encrypts the keys in the database, may be any text and must stay the same. Auth
// server and Redis are those of session.FromEnv.
//
// With -login-url https://bot.example.com/login -listen 127.0.0.1:8080, !login is
// answered with a link to a page for the password, which stays out of the room.
//
// Then invite the bot to a room with nobody but you, let it delete messages there
// (power level 50), and send
//
//	!login alice@example.com password
//	!add call mum
//	!list
//	!done 1
//	!publish
//	!logout
//
// Everything is Go, with modernc.org/sqlite and mautrix's tag goolm, without which its
// encryption is a C library. go run and go test see to the tag themselves; to deploy the
// bot, build it with it:
//
//	CGO_ENABLED=0 go build -tags goolm .
package main
