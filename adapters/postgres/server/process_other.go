//go:build !linux

package server

import (
	"errors"
	"syscall"
)

// errPlatform is what every operation on processes answers here: without /proc, parent-death signals and process handles
// the promises of this package cannot be kept, so nothing is started.
var errPlatform = errors.New("managing a PostgreSQL server needs Linux (/proc, pidfd, parent-death signals)")

type process struct {
	pid    int
	parent int
	title  string
}

func processes(string) ([]process, error) { return nil, errPlatform }

func signalProcess(process, string, syscall.Signal) error { return errPlatform }

func directoryID(string) (string, error) { return "", errPlatform }

func reap(int) {}

func ipcAttached(int) (int, error) { return 0, errPlatform }

func childAttributes(identity) *syscall.SysProcAttr { return nil }

func toolAttributes(identity) *syscall.SysProcAttr { return nil }
