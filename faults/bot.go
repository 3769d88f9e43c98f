package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

// botEnv is set for a process that plays a bot. It takes orders on its standard
// input, one JSON document a line, and reports on its standard output.
const botEnv = "SESSION_FAULTS_BOT"

type botConfig struct {
	Number, Life int // which bot, and its how-manyth process
	AuthURL      string
	Redis        string
	Ahead        time.Duration
	UsersFile    string // an account a line, see account
	Seed         uint64
	Callers      int
	Pause        time.Duration // of a caller between two calls
	ReadTimeout  time.Duration // of its Redis client; 0: the default
}

// account is a user as the bots know them.
type account struct {
	ID       string   // on Matrix
	Emails   []string // of the accounts that the user has; the first unless they switch
	Subjects []string
	Linked   bool
	Never    bool // logs in, or is linked
}

// order is what the run tells a bot to do.
type order struct {
	N     int // names the answer
	Do    string
	User  int
	Email string
	Key   string
	Value int
	SIDs  []string      // of logins that are over
	Sub   string        // whose tokens the user gets
	From  int64         // from when on what is over must not be seen
	Limit time.Duration // of the caller's patience; 0: none
	Users []int
}

// What a bot can be told.
const (
	doLogin   = "login"
	doLogout  = "logout"
	doSet     = "set"
	doTraffic = "traffic" // until quiet
	doQuiet   = "quiet"
	doEnded   = "ended" // the SIDs must not be seen any more; not answered
	doSweep   = "sweep" // a token for everybody
	doData    = "data"  // everybody's data
	doClose   = "close"
	doStop    = "stop"    // Close while some Users' tokens are refreshed, and everything goes on
	doAccount = "account" // the User's tokens are the Sub's; not answered
)

// message is what a bot says: the answer to an order, an observation that takes
// the whole picture to judge, or its figures.
type message struct {
	N          int    `json:",omitempty"`
	Kind       string // "answer" or one of the observations
	User       int
	Start, End int64
	Err        string `json:",omitempty"` // name of a sentinel
	Detail     string `json:",omitempty"`
	SID, Sub   string `json:",omitempty"`
	GaveUp     bool   `json:",omitempty"` // the caller did, before the call ended

	Sweep   []message                   `json:",omitempty"`
	Data    []map[string]int            `json:",omitempty"`
	Figures map[string]map[string]int64 `json:",omitempty"` // operation, outcome, number
}

// Observations.
const (
	sawAnswer  = "answer"
	sawFigures = "figures"
	sawRefused = "refused"    // ErrNotLoggedIn
	sawGhost   = "ghost"      // a token of a login that is over
	sawWrong   = "wrong"      // somebody else's token
	sawShort   = "short"      // a token with 60 s or less to go
	sawSilence = "silence"    // of Redis
	sawOwn     = "own logout" // a token right after the bot's own logout
	sawAccount = "account"    // a token of an account that the user logged in from to another
	sawClosed  = "closed"     // how Close went
)

type bot struct {
	config  botConfig
	svc     *session.Service
	users   []account
	ended   sync.Map // SID to the time from which it must not be seen, int64
	account sync.Map // user to the doAccount order, order
	orders  sync.WaitGroup
	callers sync.WaitGroup
	quiet   chan struct{}

	out sync.Mutex
	enc *json.Encoder // guarded by out

	mu      sync.Mutex
	figures map[string]map[string]int64 // guarded by mu
}

func runBot() {
	before := goleak.IgnoreCurrent()
	b := &bot{quiet: make(chan struct{}), enc: json.NewEncoder(os.Stdout), figures: make(map[string]map[string]int64)}
	if err := json.Unmarshal([]byte(os.Getenv(botEnv)), &b.config); err != nil {
		log.Fatal(err)
	}
	var err error
	if b.users, err = readAccounts(b.config.UsersFile); err != nil {
		log.Fatal(err)
	}
	redis.SetLogger(silence{}) // it reports every connection that we break
	client := redis.NewClient(&redis.Options{Addr: b.config.Redis, ContextTimeoutEnabled: true, ReadTimeout: b.config.ReadTimeout})
	transport := &http.Transport{IdleConnTimeout: 4 * time.Second, MaxIdleConnsPerHost: 32}
	b.svc, err = session.New(session.WithAuthURL(b.config.AuthURL), session.WithServiceKey(sessiontest.DefaultServiceKey),
		session.WithHTTPClient(&http.Client{Transport: signed{transport, b.config}}),
		session.WithRedis(client), session.WithRefreshAhead(b.config.Ahead), session.WithLoginLimit(0, 0))
	if err != nil {
		log.Fatal(err)
	}

	canary := redis.NewClient(&redis.Options{Addr: b.config.Redis, ContextTimeoutEnabled: true, PoolSize: 1, MaxRetries: -1})
	stopFigures := make(chan struct{})
	var figures sync.WaitGroup
	figures.Go(func() { b.reportFigures(stopFigures) })
	figures.Go(func() { b.listen(canary, stopFigures) })
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			log.Fatal(err)
		}
		answer := message{N: o.N, Kind: sawAnswer, Start: now()}
		var err error
		switch o.Do {
		case doClose:
			b.orders.Wait()
			b.callers.Wait()
			err = b.svc.Close()
		case doStop:
			err = b.closeInTheMiddle(o)
		default:
			b.obey(o)
			continue
		}
		answer.End = now()
		if err := errors.Join(err, client.Close()); err != nil {
			answer.Err = err.Error()
		}
		close(stopFigures)
		figures.Wait()
		_ = canary.Close()
		transport.CloseIdleConnections()
		if err := goleak.Find(before); err != nil {
			answer.Detail = err.Error()
		}
		b.say(answer)
		return
	}
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// signed tells the auth server who calls, and which refresh token is spent: it
// is the run's, and keeps the books.
type signed struct {
	http.RoundTripper
	config botConfig
}

const (
	botHeader   = "X-Faults-Bot"
	spentHeader = "X-Faults-Spent"
)

func (s signed) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set(botHeader, fmt.Sprintf("%d.%d", s.config.Number, s.config.Life))
	if req.Body != nil {
		body, err := io.ReadAll(req.Body)
		_ = req.Body.Close()
		if err != nil {
			return nil, err
		}
		var fields struct{ RefreshToken string }
		if json.Unmarshal(body, &fields) == nil && fields.RefreshToken != "" {
			req.Header.Set(spentHeader, fields.RefreshToken)
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	return s.RoundTripper.RoundTrip(req)
}

// closeInTheMiddle closes the Service while callers call, orders are carried out,
// and some tokens are refreshed.
func (b *bot) closeInTheMiddle(o order) error {
	for _, user := range o.Users {
		b.orders.Go(func() {
			if token, err := b.svc.Token(context.Background(), b.users[user].ID); err == nil {
				_, _ = b.svc.Refresh(context.Background(), b.users[user].ID, token)
			}
		})
	}
	time.Sleep(o.Limit)
	err := b.svc.Close()
	close(b.quiet)
	b.callers.Wait()
	b.orders.Wait()
	return err
}

func (b *bot) say(m message) {
	b.out.Lock()
	defer b.out.Unlock()
	_ = b.enc.Encode(m) // the run is gone if nobody listens
}

// obey carries out an order, beside others.
func (b *bot) obey(o order) {
	switch o.Do {
	case doEnded:
		for _, sid := range o.SIDs {
			b.ended.Store(sid, o.From)
		}
		return
	case doAccount:
		b.account.Store(o.User, o)
		return
	case doTraffic:
		b.traffic()
		b.say(message{N: o.N, Kind: sawAnswer})
		return
	case doQuiet:
		close(b.quiet)
		b.orders.Go(func() {
			b.callers.Wait()
			b.say(message{N: o.N, Kind: sawAnswer})
		})
		return
	}
	b.orders.Go(func() {
		m := b.carryOut(o)
		m.N, m.Kind, m.User = o.N, sawAnswer, o.User
		b.say(m)
	})
}

func (b *bot) carryOut(o order) message {
	ctx, cancel := context.Background(), func() {}
	if o.Limit > 0 {
		ctx, cancel = context.WithTimeout(ctx, o.Limit)
	}
	defer cancel()
	m := message{Start: now()}
	finish := func(err error) {
		m.End, m.Err, m.GaveUp = now(), sentinel(err), err != nil && ctx.Err() != nil
		if err != nil {
			m.Detail = err.Error()
		}
		b.count(o.Do, m.Err)
	}
	switch o.Do {
	case doLogin:
		s, err := b.svc.Login(ctx, b.users[o.User].ID, o.Email, password)
		finish(err)
		if err == nil {
			b.inspect("login", o.User, s.Token(), m.Start, m.End)
			c, _ := readClaims(s.Token())
			m.SID, m.Sub = c.SID, c.Subject
		}
	case doLogout:
		user := b.users[o.User]
		err := b.svc.Logout(ctx, user.ID)
		finish(err)
		if errors.Is(err, session.ErrStoreUnavailable) && !user.Linked {
			if token, err := b.svc.Token(context.Background(), user.ID); err == nil {
				c, _ := readClaims(token)
				b.say(message{Kind: sawOwn, User: o.User, Start: m.Start, End: now(), SID: c.SID, Sub: c.Subject})
			}
		}
	case doSet:
		finish(b.svc.SetData(ctx, b.users[o.User].ID, o.Key, o.Value))
	case doSweep:
		m.Sweep = b.sweep()
		m.End = now()
	case doData:
		m.Data = b.allData()
		m.End = now()
	default:
		m.Err = "unknown order " + o.Do
	}
	return m
}

const (
	sweepLimit   = time.Minute
	sweepCallers = 64
)
