package kafkaserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
)

var shared struct {
	sync.Mutex
	sharing bool
	dir     string
	server  *Server
	err     error
}

var errNotSharing = errors.New("start a shared Apache Kafka: nobody would end it: let TestMain run the tests by kafkaserver.Sharing")

// Shared returns a broker for all tests of this binary, which must keep to topics, groups and transactional ids of their own. The first
// call starts it.
func Shared(ctx context.Context) (*Server, error) {
	shared.Lock()
	defer shared.Unlock()
	if !shared.sharing {
		return nil, errNotSharing
	}
	if shared.server == nil && shared.err == nil {
		if shared.dir, shared.err = os.MkdirTemp("", "regent-kafka-"); shared.err == nil {
			shared.server, shared.err = Start(context.WithoutCancel(ctx), shared.dir)
		}
	}
	return shared.server, shared.err
}

// Tests are what TestMain gets.
type Tests interface{ Run() int }

type sharing struct{ tests Tests }

// Sharing returns tests that end the shared broker when they are done.
func Sharing(tests Tests) Tests { return sharing{tests} }

// Run implements [Tests].
func (s sharing) Run() int {
	shared.Lock()
	shared.sharing = true
	shared.Unlock()
	code := s.tests.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.server != nil {
		shared.server.Kill()
	}
	if shared.dir != "" {
		if err := os.RemoveAll(shared.dir); err != nil {
			fmt.Fprintln(os.Stderr, "remove the data of the shared Apache Kafka:", err)
			return max(code, 1)
		}
	}
	return code
}
