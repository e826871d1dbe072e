package server

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"
)

const cutTimeout = 10 * time.Second

// CutClients ends all client sessions and admits none until [Instance.AdmitClients]; replication, pg_rewind and the agent stay. It does without
// SQL, so it works when every connection is used up or the server's commits hang. It returns how many sessions were ended.
//
// A session that waits for a synchronous standby ends without an acknowledgement; its commit may have happened.
func (i *Instance) CutClients(ctx context.Context) (int, error) {
	ctx, cancel := bound(ctx, cutTimeout)
	defer cancel()
	if err := i.acquire(ctx); err != nil {
		return 0, err
	}
	defer i.release()
	i.clientsCut = true
	if !i.Initialized() {
		return 0, nil
	}
	if err := i.writeHBA(); err != nil {
		return 0, fmt.Errorf("cut clients off %s: %w", i.config.DataDir, err)
	}
	if !i.Running() {
		return 0, nil
	}
	if err := i.hangUp(); err != nil {
		return 0, fmt.Errorf("cut clients off %s: %w", i.config.DataDir, err)
	}
	n, err := i.endClients(ctx)
	if err != nil {
		return n, fmt.Errorf("cut clients off %s: %w", i.config.DataDir, err)
	}
	return n, nil
}

// quiet is how often in a row no client must be seen: a connection that was accepted just before the postmaster read the new
// rules shows up within this.
const quiet = 3

func (i *Instance) endClients(ctx context.Context) (int, error) {
	ended := map[int]bool{}
	began := i.config.Clock.Now()
	silent := 0
	err := i.await(ctx, func() (bool, error) {
		c, err := i.running()
		if err != nil {
			return true, nil //nolint:nilerr // without a server there are no clients
		}
		all, err := processes(i.config.DataDir)
		if err != nil {
			return false, err
		}
		sig := syscall.SIGTERM
		if i.config.Clock.Now().Sub(began) > cutTimeout/2 {
			// Killing a backend makes the postmaster end all others: a stop, which is better than a client that stays.
			sig = syscall.SIGKILL
		}
		clients := 0
		for _, p := range all {
			k := i.kind(p)
			if p.parent != c.pid || k != kindClient && k != kindNew || i.isAgents(p) {
				continue
			}
			clients++
			if k == kindClient {
				ended[p.pid] = true
				if err := signalProcess(p, i.config.DataDir, sig); err != nil {
					return false, err
				}
			}
		}
		if clients > 0 {
			silent = 0
			return false, nil
		}
		silent++
		return silent >= quiet, nil
	})
	return len(ended), err
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
