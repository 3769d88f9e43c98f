package main

import (
	"fmt"
)

// report is what a run found.
type report struct {
	Seed      uint64
	Users     int
	Processes int
	For       string

	// What must not be. All of it has to be 0.
	WrongTokens     int // of an account that is not the user's
	ShortTokens     int // with 60 s or less to go when they were handed out
	SessionsLost    int // ErrNotLoggedIn for somebody who is logged in
	WithoutToken    int // no token at the end for somebody who is logged in, whatever the error
	Resurrected     int // tokens after a logout
	QueuedLogouts   int // logouts that Redis was away for, ineffective at the end
	OwnLogouts      int // logouts that Redis was away for, ineffective in their own process
	WrongAccounts   int // tokens of users with two accounts that are of the other one
	LostToOutages   int // sessions lost to a frozen or restarted auth server beyond what is allowed
	DataLost        int // acknowledged writes that are not there at the end
	GoroutinesLeft  int // processes that had more of them after Close than before New
	CloseErrors     int // processes whose Close failed at the end
	UnexpectedError int // errors that are no sentinel of the package

	// What was looked at and left out, by reason.
	Excluded map[string]int64

	// How much was looked at.
	Tokens           int64 // handed out and checked
	RefusalsChecked  int64 // of users who are logged out, in processes that reach Redis
	LostInOutages    int   // users whose sessions an outage of the auth server took, within what is allowed or beyond
	InAtTheEnd       int   // users who have to have a token in every process
	OutAtTheEnd      int   // users who must not have one in any
	UnknownAtTheEnd  int   // users whose last login or logout ended in an error, or in a kill
	DataChecked      int
	Operations       map[string]map[string]int64 // by outcome
	Faults           map[string]int64
	AuthCalls        map[string]int64
	Findings         []string `json:",omitempty"` // the first of them, in words
	OperationsInAll  int64
	OperationsFailed int64
}

func (r *report) violations() int {
	return r.WrongTokens + r.ShortTokens + r.SessionsLost + r.WithoutToken + r.Resurrected + r.QueuedLogouts +
		r.OwnLogouts + r.WrongAccounts + r.LostToOutages + r.DataLost + r.GoroutinesLeft + r.CloseErrors + r.UnexpectedError
}

const maxFindings = 50

func (r *report) found(number *int, format string, args ...any) {
	*number++
	if len(r.Findings) < maxFindings {
		r.Findings = append(r.Findings, fmt.Sprintf(format, args...))
	}
}
