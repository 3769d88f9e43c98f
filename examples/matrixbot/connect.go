//go:build goolm

package main

import (
	"context"
	"database/sql"
	"errors"

	"github.com/rs/zerolog"
	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	_ "modernc.org/sqlite" // SQLite without cgo
)

// An account is who logs in to the homeserver: with a password, or with an access
// token where the homeserver knows no password login.
type account struct {
	homeserver, user, password, accessToken string

	database  string // a file for keys and the sync token; without it a restart cannot read what is encrypted
	pickleKey string // encrypts the keys in it
}

// connect returns a client that can read and write in encrypted rooms. Close the
// helper when the client has stopped.
func connect(ctx context.Context, a account, log zerolog.Logger) (*mautrix.Client, *cryptohelper.CryptoHelper, error) {
	client, err := mautrix.NewClient(a.homeserver, "", a.accessToken)
	if err != nil {
		return nil, nil, err
	}
	client.Log = log
	file, err := sql.Open("sqlite", "file:"+a.database+"?_txlock=immediate&_pragma=foreign_keys(1)&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if err != nil {
		return nil, nil, err
	}
	db, err := dbutil.NewWithDB(file, "sqlite")
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	helper, err := cryptohelper.NewCryptoHelper(client, []byte(a.pickleKey), db)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	if a.accessToken == "" {
		helper.LoginAs = &mautrix.ReqLogin{
			Type:                     mautrix.AuthTypePassword,
			Identifier:               mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: a.user},
			Password:                 a.password,
			InitialDeviceDisplayName: "Todo bot",
		}
	} else {
		me, err := client.Whoami(ctx)
		if err != nil {
			return nil, nil, errors.Join(err, helper.Close())
		}
		client.UserID, client.DeviceID = me.UserID, me.DeviceID
	}
	if err := helper.Init(ctx); err != nil {
		return nil, nil, errors.Join(err, helper.Close())
	}
	client.Crypto = helper
	return client, helper, nil
}
