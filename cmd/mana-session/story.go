package main

import (
	"fmt"

	"github.com/mana/session"
)

// story is a trail in sentences, the newest first.
func story(trail []session.TrailEvent) []string {
	var sentences []string
	for _, e := range trail {
		sentences = append(sentences, sentence(e))
	}
	return sentences
}

// sentence is an event of a trail as a sentence.
func sentence(e session.TrailEvent) string {
	when := "at " + moment(e.Last)
	if e.Count > 1 {
		when = fmt.Sprintf("%d times from %s to %s", e.Count, moment(e.First), moment(e.Last))
	}
	if e.Bot != "" {
		when += " on " + e.Bot
	}
	what := happened(e)
	if e.Reason != "" && e.Kind != session.TrailReplaced {
		return fmt.Sprintf("%s, %s: %s.", what, when, e.Reason)
	}
	return fmt.Sprintf("%s, %s.", what, when)
}

// happened is what an event was, as the beginning of a sentence.
func happened(e session.TrailEvent) string {
	switch e.Kind {
	case session.TrailBegan:
		if e.By == byLink {
			return "The SSO-Link began a session"
		}
		return "A login began a session"
	case session.TrailRefreshed:
		if e.By == byLink {
			return "The token was replaced by the SSO-Link"
		}
		return "The token was replaced by the refresh token"
	case session.TrailExtended:
		return "The session was extended because it was in use"
	case session.TrailWeakened:
		return "The auth server refused the refresh token, and the session stayed"
	case session.TrailReplaced:
		switch e.By {
		case byLogin:
			return "A login as another account replaced the session"
		case byLink:
			return "The SSO-Link led to another account, whose session replaced this one"
		}
		return "The refresh token led to another account, whose session replaced this one"
	case session.TrailEnded:
		switch e.By {
		case byLogout:
			return "The user was logged out"
		case byExpiry:
			return "The session expired"
		}
		return "The auth server ended the session"
	}
	return "Something of the kind " + string(e.Kind) + " happened, by " + e.By
}
