package redistest

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // a group of its own, for killTree
	}
}

func killTree(p *os.Process) { _ = syscall.Kill(-p.Pid, syscall.SIGKILL) }

// checkPaused returns nil once the process stands still: a signal is sent before
// it is obeyed.
func checkPaused(pid int) error {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return err
	}
	_, state, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	if len(state) == 0 || state[0] != 'T' {
		return fmt.Errorf("process %d is not stopped: %q", pid, stat)
	}
	return nil
}

// reservePort reserves a port of 127.0.0.1, any free one for 0, until it is
// released. It does so by a socket that is bound but does not listen: connecting
// to the port is refused, the system gives it to nobody else, and a server that
// asks for it by number (with SO_REUSEADDR, as Redis and Go do) gets it.
func reservePort(port int) (int, func(), error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, os.NewSyscallError("socket", err)
	}
	release := func() { _ = syscall.Close(fd) }
	if err := bindReusable(fd, port); err != nil {
		release()
		return 0, nil, err
	}
	addr, err := syscall.Getsockname(fd)
	if err != nil {
		release()
		return 0, nil, os.NewSyscallError("getsockname", err)
	}
	return addr.(*syscall.SockaddrInet4).Port, release, nil
}

func bindReusable(fd, port int) error {
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	loopback := &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	return os.NewSyscallError("bind", syscall.Bind(fd, loopback))
}
