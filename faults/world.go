package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
)

// world stands in for a test when there is none: redistest is made for tests.
type world struct {
	testing.TB
	cleanups []func()
}

// inWorld runs f outside of a test; what would end a test is its error.
func inWorld(f func(testing.TB) error) (err error) {
	w := &world{}
	defer func() {
		if p := recover(); p != nil {
			f, ok := p.(failure)
			if !ok {
				panic(p)
			}
			err = errors.New(string(f))
		}
	}()
	defer func() {
		for _, cleanup := range slices.Backward(w.cleanups) {
			cleanup()
		}
	}()
	return f(w)
}

type failure string

func (w *world) Helper()                   {}
func (w *world) Name() string              { return "faults" }
func (w *world) Failed() bool              { return false }
func (w *world) Cleanup(f func())          { w.cleanups = append(w.cleanups, f) }
func (w *world) Context() context.Context  { return context.Background() }
func (w *world) Log(args ...any)           { fmt.Fprintln(os.Stderr, args...) }
func (w *world) Logf(f string, a ...any)   { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (w *world) Fatal(args ...any)         { panic(failure(fmt.Sprintln(args...))) }
func (w *world) Fatalf(f string, a ...any) { panic(failure(fmt.Sprintf(f, a...))) }
func (w *world) Skip(args ...any)          { w.Fatal(args...) }
func (w *world) Skipf(f string, a ...any)  { w.Fatalf(f, a...) }
func (w *world) Error(args ...any)         { w.Fatal(args...) }
func (w *world) Errorf(f string, a ...any) { w.Fatalf(f, a...) }

func (w *world) TempDir() string {
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
