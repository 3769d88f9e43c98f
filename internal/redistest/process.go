package redistest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// A process is a running child; done is closed when it is gone and reaped.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// startProcess starts a child that dies with this process. The system ties that
// bond to the thread that started the child, not to the process: were the thread
// to end, the child would be killed under a running test. So the child is started
// and awaited by one goroutine that keeps its thread until the child is gone.
func startProcess(dir, bin string, args ...string) (*process, error) {
	output, err := os.Create(filepath.Join(dir, "output.log"))
	if err != nil {
		return nil, err
	}
	defer output.Close()

	cmd := exec.Command(bin, args...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = childAttr()

	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // killed more often than not
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop asks the process to end, and insists if it does not.
func (p *process) stop() {
	if p.cmd.Process.Signal(syscall.SIGTERM) == nil {
		select {
		case <-p.done:
			return
		case <-time.After(stopTimeout):
		}
	}
	p.kill()
}

// kill ends the process, and with it the children Redis forks to write snapshots.
func (p *process) kill() {
	if p.running() {
		killTree(p.cmd.Process)
	}
	<-p.done
}

func (p *process) pause() error {
	if err := pauseProcess(p.cmd.Process); err != nil {
		return err
	}
	return poll(startTimeout, p.done, func() error { return checkPaused(p.pid()) })
}

func (p *process) resume() error { return resumeProcess(p.cmd.Process) }
