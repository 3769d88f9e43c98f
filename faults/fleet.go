package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// password is everybody's.
const password = "secret"

// dataKeys are the keys that users have data under.
var dataKeys = []string{"list", "city"}

// readAccounts reads what writeAccounts wrote.
func readAccounts(file string) ([]account, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var accounts []account
	for line := range strings.Lines(string(b)) {
		var a account
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			return nil, err
		}
		accounts = append(accounts, a)
	}
	return accounts, nil
}

func writeAccounts(file string, accounts []account) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	for _, a := range accounts {
		if err := enc.Encode(a); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(w.Flush(), f.Close())
}

// process is a bot process, seen from the run.
type process struct {
	config botConfig
	cmd    *exec.Cmd
	gone   chan struct{} // closed when it is, and everything it said was heard

	mu      sync.Mutex
	in      *json.Encoder          // guarded by mu
	n       int                    // guarded by mu: the last order's
	waiting map[int]chan<- message // guarded by mu
}

var errBotGone = errors.New("the bot is gone")

// startProcess starts a bot; hear is given what it observes.
func startProcess(c botConfig, hear func(*process, message)) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), botEnv+"="+string(config))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{config: c, cmd: cmd, gone: make(chan struct{}), in: json.NewEncoder(in), waiting: make(map[int]chan<- message)}
	go func() {
		defer close(p.gone)
		dec := json.NewDecoder(out)
		for {
			var m message
			if dec.Decode(&m) != nil {
				break // killed, or done
			}
			if m.Kind != sawAnswer {
				hear(p, m)
				continue
			}
			p.mu.Lock()
			answer := p.waiting[m.N]
			delete(p.waiting, m.N)
			p.mu.Unlock()
			answer <- m
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, answer := range p.waiting {
			close(answer)
		}
		p.waiting = nil
		_ = cmd.Wait()
	}()
	return p, nil
}

// do gives an order and waits for the answer, or for the end of the bot.
func (p *process) do(o order) (message, error) {
	answer := make(chan message, 1)
	p.mu.Lock()
	if p.waiting == nil {
		p.mu.Unlock()
		return message{}, errBotGone
	}
	p.n++
	o.N = p.n
	p.waiting[o.N] = answer
	err := p.in.Encode(o)
	p.mu.Unlock()
	m, ok := <-answer // the end of the bot ends the wait, also after a failed write
	if !ok {
		return message{}, errors.Join(errBotGone, err)
	}
	return m, nil
}

// tell gives an order that is not answered.
func (p *process) tell(o order) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.in.Encode(o) // a bot that is gone need not know
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.gone
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *process) String() string { return fmt.Sprintf("bot %d.%d", p.config.Number, p.config.Life) }
