package server

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"
)

const (
	cutTimeout = 10 * time.Second
	// lingerAfter is how long a session has to end before it counts as lingering.
	lingerAfter = time.Second
)

// Cut says how cutting clients off went.
type Cut struct {
	// Sessions were told to end.
	Sessions int
	// Lingering are those of them that have not ended yet. Such a session is stuck in something that does not look for interrupts, for
	// example in the clean-up of its temporary tables, which waits for a synchronous standby once more. It takes no further
	// statement and acknowledges nothing, but its client does not hear of it; only stopping the server ends it.
	Lingering int
}

// CutClients ends all client sessions and admits none until [Instance.AdmitClients]; replication, pg_rewind and the agent stay. It does without
// SQL, so it works when every connection is used up or the server's commits hang.
//
// A session that waits for a synchronous standby ends without an acknowledgement; its commit may have happened.
func (i *Instance) CutClients(ctx context.Context) (Cut, error) {
	ctx, cancel := bound(ctx, cutTimeout)
	defer cancel()
	if err := i.acquire(ctx); err != nil {
		return Cut{}, err
	}
	defer i.release()
	cut, err := i.cutClients(ctx)
	if err != nil {
		return cut, fmt.Errorf("cut clients off %s: %w", i.config.DataDir, err)
	}
	return cut, nil
}

func (i *Instance) cutClients(ctx context.Context) (Cut, error) {
	i.clientsCut = true
	if !i.Initialized() {
		return Cut{}, nil
	}
	if err := i.writeHBA(); err != nil {
		return Cut{}, err
	}
	if !i.Running() {
		return Cut{}, nil
	}
	if err := i.hangUp(); err != nil {
		return Cut{}, err
	}
	return i.endClients(ctx)
}

// quiet is how often in a row no client must be seen: a connection that was accepted just before the postmaster read the new
// rules shows up within this.
const quiet = 3

func (i *Instance) endClients(ctx context.Context) (Cut, error) {
	told := map[int]time.Time{}
	silent, lingering := 0, 0
	err := i.await(ctx, func() (bool, error) {
		c, err := i.running()
		if err != nil {
			lingering = 0
			return true, nil //nolint:nilerr // without a server there are no clients
		}
		all, err := processes(i.config.DataDir)
		if err != nil {
			return false, err
		}
		fresh, now := 0, i.config.Clock.Now()
		lingering = 0
		for _, p := range all {
			k := i.kind(p)
			if p.parent != c.pid || k != kindClient && k != kindNew || i.isAgents(p) {
				continue
			}
			if since, ok := told[p.pid]; ok && now.Sub(since) > lingerAfter {
				lingering++
				continue
			}
			fresh++
			if _, ok := told[p.pid]; !ok && k == kindClient {
				told[p.pid] = now
				if err := signalProcess(p, i.config.DataDir, syscall.SIGTERM); err != nil {
					return false, err
				}
			}
		}
		if fresh > 0 {
			silent = 0
			return false, nil
		}
		silent++
		return silent >= quiet, nil
	})
	return Cut{Sessions: len(told), Lingering: lingering}, err
}

// isAgents tells the agent's own sessions: the superuser's over the private socket, which nobody else can reach.
func (i *Instance) isAgents(p process) bool {
	rest := strings.TrimPrefix(strings.TrimPrefix(p.title, "postgres: "), i.config.ClusterName+": ")
	return strings.HasPrefix(rest, i.config.Superuser.User+" ") && strings.Contains(rest, " [local] ")
}

// AdmitClients lets clients in again.
func (i *Instance) AdmitClients(ctx context.Context) error {
	ctx, cancel := bound(ctx, cutTimeout)
	defer cancel()
	if err := i.acquire(ctx); err != nil {
		return err
	}
	defer i.release()
	i.clientsCut = false
	if !i.Initialized() {
		return nil
	}
	if err := i.writeHBA(); err != nil {
		return fmt.Errorf("admit clients to %s: %w", i.config.DataDir, err)
	}
	if !i.Running() {
		return nil
	}
	if err := i.reloadAndWait(ctx); err != nil {
		return fmt.Errorf("admit clients to %s: %w", i.config.DataDir, err)
	}
	return nil
}
