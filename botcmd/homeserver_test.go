package botcmd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// A homeserver is a double of one in this process, for what a real one cannot be
// made to do on demand. It speaks the calls that the bot makes, and can fail each.
type homeserver struct {
	mux http.ServeMux
	bot id.UserID

	mu       sync.Mutex
	timeline []*event.Event                                  // guarded by mu
	members  map[id.RoomID]map[id.UserID]event.Membership    // guarded by mu
	joinedAt time.Time                                       // guarded by mu; the bot
	renamed  time.Time                                       // guarded by mu; the bot, since it joined
	deleted  map[id.EventID]bool                             // guarded by mu
	answers  []answer                                        // guarded by mu
	calls    map[string]int                                  // guarded by mu; by the call's name
	faults   map[string]func(http.ResponseWriter) (end bool) // guarded by mu; by the call's name
	changed  chan struct{}                                   // guarded by mu
}

// An answer is what the bot sent.
type answer struct {
	room id.RoomID
	to   id.EventID
	text string
	raw  map[string]any
}

func newHomeserver(bot id.UserID) *homeserver {
	h := &homeserver{
		bot:      bot,
		members:  make(map[id.RoomID]map[id.UserID]event.Membership),
		deleted:  make(map[id.EventID]bool),
		calls:    make(map[string]int),
		faults:   make(map[string]func(http.ResponseWriter) bool),
		joinedAt: time.Now().Add(-24 * time.Hour),
		changed:  make(chan struct{}),
	}
	const v3, v1 = "/_matrix/client/v3", "/_matrix/client/v1"
	for pattern, call := range map[string]struct {
		name   string
		handle func(http.ResponseWriter, *http.Request) any
	}{
		"POST " + v3 + "/user/{user}/filter":                           {"filter", h.filter},
		"GET " + v3 + "/account/whoami":                                {"whoami", h.whoami},
		"GET " + v3 + "/sync":                                          {"sync", h.sync},
		"POST " + v3 + "/join/{room}":                                  {"join", h.join},
		"POST " + v3 + "/rooms/{room}/join":                            {"join", h.join},
		"PUT " + v3 + "/rooms/{room}/send/m.room.message/{txn}":        {"send", h.send},
		"PUT " + v3 + "/rooms/{room}/redact/{event}/{txn}":             {"redact", h.redact},
		"GET " + v3 + "/rooms/{room}/event/{event}":                    {"event", h.event},
		"GET " + v3 + "/rooms/{room}/members":                          {"members", h.memberList},
		"GET " + v3 + "/rooms/{room}/state/m.room.member/{user}":       {"state", h.member},
		"GET " + v1 + "/rooms/{room}/relations/{event}/{relation}":     {"relations", h.relations},
		"PUT " + v3 + "/rooms/{room}/send/m.reaction/{txn}":            {"react", h.filter},
		"GET " + v1 + "/rooms/{room}/relations/{event}/{relation}/{t}": {"relations", h.relations},
	} {
		h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			h.mu.Lock()
			h.calls[call.name]++
			fault := h.faults[call.name]
			h.mu.Unlock()
			if fault != nil && fault(w) {
				return
			}
			if reply := call.handle(w, r); reply != nil {
				_ = json.NewEncoder(w).Encode(reply)
			}
		})
	}
	return h
}

// RoundTrip implements [http.RoundTripper]: the homeserver is called in place.
func (h *homeserver) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	h.mux.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if w.Code == dropped {
		return nil, io.ErrUnexpectedEOF
	}
	return w.Result(), nil
}

const dropped = 999 // the status of a connection that is cut

// fail lets calls of a name fail, the first n of them, or all if n is 0.
func (h *homeserver) fail(name string, n, status int, body string, header ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := n
	h.faults[name] = func(w http.ResponseWriter) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		if n > 0 && left == 0 {
			return false
		}
		left--
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return true
	}
}

func (h *homeserver) filter(http.ResponseWriter, *http.Request) any {
	return map[string]string{"filter_id": "1", "event_id": "$none"}
}

func (h *homeserver) whoami(http.ResponseWriter, *http.Request) any {
	return map[string]string{"user_id": h.bot.String(), "device_id": "DEVICE"}
}

// sync answers when there is something new, or after the time that was asked for.
func (h *homeserver) sync(_ http.ResponseWriter, r *http.Request) any {
	since, _ := strconv.Atoi(r.URL.Query().Get("since"))
	wait, _ := strconv.Atoi(r.URL.Query().Get("timeout"))
	timeout := time.After(time.Duration(wait) * time.Millisecond)
	for {
		h.mu.Lock()
		news, next, changed := h.timeline[since:], len(h.timeline), h.changed
		h.mu.Unlock()
		if len(news) > 0 || wait == 0 {
			return syncAnswer(news, next)
		}
		select {
		case <-changed:
		case <-timeout:
			return syncAnswer(nil, next)
		case <-r.Context().Done():
			return nil
		}
	}
}

func syncAnswer(news []*event.Event, next int) any {
	type list struct {
		Events []*event.Event `json:"events"`
	}
	join, invite := map[id.RoomID]any{}, map[id.RoomID]any{}
	for _, evt := range news {
		if evt.Content.Raw["membership"] == "invite" {
			invite[evt.RoomID] = map[string]any{"invite_state": list{[]*event.Event{evt}}}
			continue
		}
		room, _ := join[evt.RoomID].(map[string]*list)
		if room == nil {
			room = map[string]*list{"timeline": {}}
			join[evt.RoomID] = room
		}
		room["timeline"].Events = append(room["timeline"].Events, evt)
	}
	return map[string]any{"next_batch": strconv.Itoa(next), "rooms": map[string]any{"join": join, "invite": invite}}
}

func (h *homeserver) join(_ http.ResponseWriter, r *http.Request) any {
	return map[string]string{"room_id": r.PathValue("room")}
}

func (h *homeserver) send(_ http.ResponseWriter, r *http.Request) any {
	raw := map[string]any{}
	_ = json.NewDecoder(r.Body).Decode(&raw)
	a := answer{room: id.RoomID(r.PathValue("room")), raw: raw}
	a.text, _ = raw["body"].(string)
	relates, _ := raw["m.relates_to"].(map[string]any)
	to, _ := relates["m.in_reply_to"].(map[string]any)
	a.to = id.EventID(fmt.Sprint(to["event_id"]))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers = append(h.answers, a)
	return map[string]string{"event_id": "$answer" + strconv.Itoa(len(h.answers))}
}

func (h *homeserver) redact(_ http.ResponseWriter, r *http.Request) any {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deleted[id.EventID(r.PathValue("event"))] = true
	return map[string]string{"event_id": "$redaction"}
}

func (h *homeserver) event(w http.ResponseWriter, r *http.Request) any {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, evt := range h.timeline {
		if evt.ID.String() != r.PathValue("event") {
			continue
		}
		if h.deleted[evt.ID] {
			gone := *evt
			gone.Content = event.Content{Raw: map[string]any{}}
			return &gone
		}
		return evt
	}
	w.WriteHeader(http.StatusNotFound)
	return map[string]string{"errcode": "M_NOT_FOUND"}
}

func (h *homeserver) memberList(_ http.ResponseWriter, r *http.Request) any {
	h.mu.Lock()
	defer h.mu.Unlock()
	var chunk []*event.Event
	for user, membership := range h.members[id.RoomID(r.PathValue("room"))] {
		chunk = append(chunk, memberEvent(user, membership))
	}
	return map[string]any{"chunk": chunk}
}

func memberEvent(user id.UserID, membership event.Membership) *event.Event {
	key := user.String()
	return &event.Event{
		Type: event.StateMember, StateKey: &key, Sender: user,
		Content: event.Content{Raw: map[string]any{"membership": string(membership), "displayname": "Todo bot"}},
	}
}

func (h *homeserver) member(http.ResponseWriter, *http.Request) any {
	h.mu.Lock()
	defer h.mu.Unlock()
	evt := memberEvent(h.bot, event.MembershipJoin)
	evt.Timestamp = h.joinedAt.UnixMilli()
	if h.renamed.After(h.joinedAt) {
		evt.Timestamp = h.renamed.UnixMilli()
		evt.Unsigned.PrevContent = &event.Content{Raw: map[string]any{"membership": "join"}}
	}
	return evt
}

func (h *homeserver) relations(_ http.ResponseWriter, r *http.Request) any {
	h.mu.Lock()
	defer h.mu.Unlock()
	var chunk []*event.Event
	for _, evt := range h.timeline {
		relates, _ := evt.Content.Raw["m.relates_to"].(map[string]any)
		if relates["event_id"] == r.PathValue("event") && !h.deleted[evt.ID] {
			chunk = append(chunk, evt)
		}
	}
	slices.Reverse(chunk) // the newest first, and two to a page
	from, _ := strconv.Atoi(r.URL.Query().Get("from"))
	page := map[string]any{"chunk": chunk[from:min(from+2, len(chunk))]}
	if from+2 < len(chunk) {
		page["next_batch"] = strconv.Itoa(from + 2)
	}
	return page
}

// post puts events into the timeline, all at once, and returns the ID of the last.
func (h *homeserver) post(events ...*event.Event) id.EventID {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, evt := range events {
		evt.ID = id.EventID("$event" + strconv.Itoa(len(h.timeline)))
		h.timeline = append(h.timeline, evt)
	}
	close(h.changed)
	h.changed = make(chan struct{})
	return events[len(events)-1].ID
}

func (h *homeserver) isDeleted(message id.EventID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.deleted[message]
}

// said is all that the bot has answered to a message.
func (h *homeserver) said(to id.EventID) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var texts []string
	for _, a := range h.answers {
		if a.to == to {
			texts = append(texts, a.text)
		}
	}
	return strings.Join(texts, "|")
}

func (h *homeserver) called(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls[name]
}

func textEvent(room id.RoomID, sender id.UserID, text string) *event.Event {
	return &event.Event{
		Type: event.EventMessage, RoomID: room, Sender: sender, Timestamp: time.Now().UnixMilli(),
		Content: event.Content{Raw: map[string]any{"msgtype": "m.text", "body": text}},
	}
}

// editEvent is an edit in alice's room.
func editEvent(sender id.UserID, edited id.EventID, text string) *event.Event {
	evt := textEvent(room, sender, "* "+text)
	evt.Content.Raw["m.new_content"] = map[string]any{"msgtype": "m.text", "body": text}
	evt.Content.Raw["m.relates_to"] = map[string]any{"rel_type": "m.replace", "event_id": edited.String()}
	return evt
}
