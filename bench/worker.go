package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mana/session"
	"github.com/mana/session/sessiontest"
)

// workerEnv is set for a process that plays a bot: it takes orders on its
// standard input, one JSON document a line, and answers each with another.
const workerEnv = "SESSION_BENCH_WORKER"

type workerConfig struct {
	AuthURL, Redis string
	Ahead          time.Duration
	Held           bool // only sessions that it holds are tracked
}

// order asks for Tokens, or for a while of traffic.
type order struct {
	User    string
	Callers int
	At      time.Time     // when to call, for all workers the same
	For     time.Duration // call over and over, one user after the other
	Users   int
	Each    bool // each user once, from First on, out of Of
	First   int
	Of      int
}

// report is what became of an order: when each caller was served, and how long
// it waited.
type report struct {
	Served  []time.Time
	Waits   []time.Duration
	Errors  map[string]int
	Refresh int64 // refreshes ahead of this process so far
}

func work() {
	var c workerConfig
	if err := json.Unmarshal([]byte(os.Getenv(workerEnv)), &c); err != nil {
		log.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Addr: c.Redis, ContextTimeoutEnabled: true})
	defer client.Close()
	var opts []session.RedisOption
	if c.Held {
		opts = append(opts, session.WithHeldKeysTracked())
	}
	store, err := session.NewRedisStore(client, opts...)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	svc, err := session.New(session.WithAuthURL(c.AuthURL), session.WithServiceKey(sessiontest.DefaultServiceKey),
		session.WithStore(store), session.WithRefreshAhead(c.Ahead))
	if err != nil {
		log.Fatal(err)
	}
	defer svc.Close()
	out := json.NewEncoder(os.Stdout)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			log.Fatal(err)
		}
		r := o.carryOut(svc)
		r.Refresh = svc.Counters().RefreshesAhead
		if err := out.Encode(r); err != nil {
			return
		}
	}
}

func (o order) carryOut(svc *session.Service) report {
	r := report{Errors: make(map[string]int)}
	var mu sync.Mutex
	call := func(user string) {
		started := time.Now()
		_, err := svc.Token(context.Background(), user)
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			r.Errors[err.Error()]++
			return
		}
		r.Waits = append(r.Waits, now.Sub(started))
		if o.For == 0 && !o.Each {
			r.Served = append(r.Served, now)
		}
	}
	time.Sleep(time.Until(o.At))
	var callers sync.WaitGroup
	end := time.Now().Add(o.For)
	for i := range o.Callers {
		callers.Go(func() {
			if o.Each {
				for n := i; n < o.Users; n += o.Callers {
					call(fmt.Sprintf(o.User, (o.First+n)%max(o.Users, o.Of)))
				}
				return
			}
			if o.For == 0 {
				call(o.User)
				return
			}
			for n := i; time.Now().Before(end); n++ {
				call(fmt.Sprintf(o.User, n%o.Users))
				time.Sleep(time.Millisecond)
			}
		})
	}
	callers.Wait()
	if o.For > 0 { // thousands of hits: their distribution will do
		slices.Sort(r.Waits)
		if n := len(r.Waits); n > 20_000 {
			r.Waits = slices.Concat(every(r.Waits[:n-2_000], 10), r.Waits[n-2_000:])
		}
	}
	return r
}

// every keeps one in n.
func every[T any](values []T, n int) []T {
	var kept []T
	for i := 0; i < len(values); i += n {
		kept = append(kept, values[i])
	}
	return kept
}

// worker is such a process, seen from its parent.
type worker struct {
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
}

func startWorker(c workerConfig) (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), workerEnv+"="+string(config))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &worker{cmd, json.NewEncoder(stdin), json.NewDecoder(stdout)}, nil
}

func (w *worker) kill() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
}

// workers carry out one order together.
type workers []*worker

func startWorkers(n int, c workerConfig) (workers, error) {
	var ws workers
	for range n {
		w, err := startWorker(c)
		if err != nil {
			ws.kill()
			return nil, err
		}
		ws = append(ws, w)
	}
	return ws, nil
}

func (ws workers) kill() {
	for _, w := range ws {
		w.kill()
	}
}

func (ws workers) send(o order) error {
	for _, w := range ws {
		if err := w.in.Encode(o); err != nil {
			return err
		}
	}
	return nil
}

// collect reads the answers of all workers into one.
func (ws workers) collect() (report, error) {
	all := report{Errors: make(map[string]int)}
	for _, w := range ws {
		var r report
		if err := w.out.Decode(&r); err != nil {
			return all, err
		}
		all.Served = append(all.Served, r.Served...)
		all.Waits = append(all.Waits, r.Waits...)
		all.Refresh += r.Refresh
		for text, n := range r.Errors {
			all.Errors[text] += n
		}
	}
	return all, nil
}

func (ws workers) do(o order) (report, error) {
	if err := ws.send(o); err != nil {
		return report{}, err
	}
	return ws.collect()
}
