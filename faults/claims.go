package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// claims are what the checks go by. SID names the login that a token stems
// from, over all refreshes; tokens of one link share one.
type claims struct {
	Subject string `json:"sub"`
	SID     string `json:"sid"`
	Expires int64  `json:"exp"`
}

func readClaims(token string) (c claims, err error) {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	b, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, err
	}
	if c.Subject == "" || c.SID == "" || c.Expires == 0 {
		return c, errors.New("claims missing")
	}
	return c, nil
}

// now is the time by the wall clock, which the processes of a run share.
func now() int64 { return time.Now().UnixNano() }
