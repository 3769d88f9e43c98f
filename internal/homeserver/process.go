package homeserver

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

const outputFile = "output.log"

// A process is a running child; done is closed when it is gone and reaped.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// startProcess starts a child that, on Linux, dies with this process. The system
// ties that bond to the thread that started the child, so one goroutine keeps
// its thread until the child is gone.
func startProcess(dir, program string, args ...string) (*process, error) {
	output, err := os.Create(filepath.Join(dir, outputFile))
	if err != nil {
		return nil, err
	}
	defer output.Close()

	p := &process{cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = output, output
	p.cmd.SysProcAttr = childAttr()
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // ends by a signal
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// stop asks the process to end, and insists if it does not.
func (p *process) stop() {
	if p.cmd.Process.Signal(os.Interrupt) == nil {
		select {
		case <-p.done:
			return
		case <-time.After(stopTimeout):
		}
	}
	p.kill()
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may be gone already
	<-p.done
}
