//go:build !linux

package redistest

import (
	"net"
	"os"
	"syscall"
)

func childAttr() *syscall.SysProcAttr { return nil }

func killTree(p *os.Process) { _ = p.Kill() }

func checkPaused(int) error { return nil }

// reservePort finds a free port of 127.0.0.1. The port is not held: somebody else
// may take it before the server does.
func reservePort(port int) (int, func(), error) {
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return 0, nil, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, func() {}, nil
}
