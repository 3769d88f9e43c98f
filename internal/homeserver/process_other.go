//go:build !linux

package homeserver

import "syscall"

func childAttr() *syscall.SysProcAttr { return nil }
