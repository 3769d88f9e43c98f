package homeserver

import "syscall"

// childAttr also keeps the terminal's interrupt from the child: who started it
// decides when it stops.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
