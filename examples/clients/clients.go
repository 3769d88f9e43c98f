// Package clients shows generated API clients, built once and used for all users: one
// of oapi-codegen and one of connect.
//
//go:generate go tool oapi-codegen -config todo/config.yaml todo/openapi.yaml
//go:generate protoc --proto_path=calendar --go_out=calendar --go_opt=paths=source_relative --connect-go_out=calendar --connect-go_opt=paths=source_relative calendar.proto
package clients

import (
	"github.com/mana/session"
	"github.com/mana/session/examples/clients/calendar/calendarconnect"
	"github.com/mana/session/examples/clients/todo"
)

// Clients are the clients of a bot's backends. Each call takes a context that names the
// user: see [session.WithUser].
type Clients struct {
	Todo     *todo.ClientWithResponses
	Calendar calendarconnect.CalendarClient
}

// New makes the clients. The token of a user goes to the two hosts alone.
func New(svc *session.Service, todoURL, todoHost, calendarURL, calendarHost string) (*Clients, error) {
	client := svc.HTTPClient(session.AllowHosts(todoHost, calendarHost))
	lists, err := todo.NewClientWithResponses(todoURL, todo.WithHTTPClient(client))
	if err != nil {
		return nil, err
	}
	return &Clients{Todo: lists, Calendar: calendarconnect.NewCalendarClient(client, calendarURL)}, nil
}
