package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/adapters/postgres/guard"
	"github.com/regent-infra/regent/adapters/postgres/observe"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/statefile"
	"github.com/regent-infra/regent/internal/secret"
	"github.com/regent-infra/regent/schemas"
)

// makePrivateDir makes a directory for the agent alone. What lies above it stays passable: the data directory is often beside it,
// and its server runs as another user.
func makePrivateDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// prepare does everything of a start that can fail for reasons of configuration.
func (a *Agent) prepare(ctx context.Context) (err error) {
	c := a.config
	if a.roles, err = c.credentials(); err != nil {
		return err
	}
	a.masker = secret.NewMasker(a.roles.superuser.Password, a.roles.replication.Password, a.roles.rewind.Password)
	if err := makePrivateDir(c.AgentDir); err != nil {
		return fmt.Errorf("make the agent's directory: %w", err)
	}
	a.file = statefile.New(c.AgentDir)
	if err := a.remember(); err != nil {
		return err
	}
	if a.binaries, err = a.locate(ctx); err != nil {
		return err
	}
	a.instance, err = server.Open(server.Config{
		Binaries: a.binaries, DataDir: c.DataDir, RunDir: c.RunDir, User: c.User, ClusterName: c.Cluster.Name() + "-" + c.Node,
		ListenHosts: c.ListenHosts, Port: c.Port, Superuser: a.roles.superuser, Replication: a.roles.replication, Rewind: a.roles.rewind,
		Settings: c.Settings, Logger: a.logger, Clock: a.clock,
	})
	if err != nil {
		return err
	}
	if err := a.inspect(ctx); err != nil {
		return errors.Join(err, a.instance.Close())
	}
	a.observer, err = observe.New(observe.Config{Connect: a.instance.ConnConfig, Timeout: c.LookTimeout, Clock: a.clock})
	if err != nil {
		return errors.Join(err, a.instance.Close())
	}
	a.looks = newLooker(a.observer, c, a.instance.DataDir(), a.instance.WALDir(), a.clock, func() {
		select {
		case a.seen <- struct{}{}:
		default:
		}
	})
	return nil
}

// remember reads the memory. A node without any may begin anew only if it has no data either.
func (a *Agent) remember() error {
	d, err := a.file.Read(a.config.Cluster, a.config.Node)
	if errors.Is(err, statefile.ErrMissing) {
		if filled(a.config.DataDir) {
			return fmt.Errorf("%w, but %s is not empty: what this node has promised is not known. Restore the agent's directory %s, or move the data directory away and clone the node anew",
				err, a.config.DataDir, a.config.AgentDir)
		}
		d, err = guard.NewDurable(a.config.Cluster, a.config.Node), nil
	}
	if err != nil {
		return err
	}
	a.state = guard.New(d)
	return nil
}

// filled says whether there is anything in a directory.
func filled(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) > 0
}

// locate finds programs of the version that the data directory has, or that is asked for.
func (a *Agent) locate(ctx context.Context) (binary.Set, error) {
	major, found := a.config.Version, 0
	if major == 0 && a.config.BinDir == "" {
		if text, err := os.ReadFile(filepath.Join(a.config.DataDir, "PG_VERSION")); err == nil {
			found, _ = strconv.Atoi(strings.TrimSpace(string(text))) // what is no number is found by server.Check
			major = found
		}
	}
	fetch := &binary.FetchOptions{Major: major}
	if a.config.NoFetch {
		fetch = nil
	}
	set, err := binary.Locate(ctx, binary.FindOptions{Dir: a.config.BinDir, Major: major}, fetch)
	if found != 0 && errors.Is(err, binary.ErrUnsupported) {
		err = fmt.Errorf("the data directory %s is of PostgreSQL %d: %w; pg_upgrade it, or give this node another directory", a.config.DataDir, found, err)
	}
	return set, err
}

// inspect ends what an earlier agent has left, and refuses what does not belong here.
func (a *Agent) inspect(ctx context.Context) error {
	if n, err := a.instance.ClearLeftovers(ctx); err != nil {
		return err
	} else if n > 0 {
		a.logger.WarnContext(ctx, "processes that an earlier agent had left were ended", "count", n)
	}
	err := a.instance.Check()
	switch {
	case errors.Is(err, server.ErrEmpty), errors.Is(err, server.ErrCondemned):
	case err != nil && a.state.Data == guard.DataWhole:
		return err
	case err == nil && a.state.Data == guard.DataNone:
		return fmt.Errorf("%s holds a database that this agent does not know (its memory %s says that there is none): move it away, or restore the memory that belongs to it",
			a.config.DataDir, a.file.Path())
	case err == nil && a.state.SystemIdentifier != "":
		data, err := a.instance.Control()
		if err != nil {
			return err
		}
		if got := strconv.FormatUint(data.SystemIdentifier, 10); got != a.state.SystemIdentifier {
			return fmt.Errorf("%w: %s is of the cluster with system identifier %s, this node belongs to %s: it was replaced behind the agent's back",
				server.ErrForeign, a.config.DataDir, got, a.state.SystemIdentifier)
		}
	}
	return a.checkPort(ctx)
}

// checkPort finds another server on the port now, not when the cluster needs this node.
func (a *Agent) checkPort(ctx context.Context) error {
	for _, host := range a.config.ListenHosts {
		if host == "*" {
			host = ""
		}
		address := net.JoinHostPort(host, strconv.Itoa(int(a.config.Port)))
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("port %d is taken by another process (%s): stop that one, or give this node another port", a.config.Port, address)
		}
		if err != nil {
			return fmt.Errorf("listen on %s: %w: is it an address of this machine?", address, err)
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

// look says what was found at boot.
func (a *Agent) look(ctx context.Context) (guard.Booted, error) {
	booted := guard.Booted{At: a.now(), Data: a.state.Data}
	if !a.instance.Initialized() {
		booted.Data = guard.DataNone
		return booted, nil
	}
	if a.state.Data != guard.DataWhole {
		return booted, nil
	}
	data, err := a.instance.Control()
	if err != nil {
		return booted, err
	}
	booted.SystemIdentifier = strconv.FormatUint(data.SystemIdentifier, 10)
	booted.WalEnd = a.walEnd(ctx)
	return booted, nil
}

// walEnd reads the end of valid WAL from disk; nil if it cannot be found, which is logged.
func (a *Agent) walEnd(ctx context.Context) *schemas.WalEnd {
	position, err := a.instance.Position(ctx)
	if err != nil {
		if ctx.Err() == nil {
			a.logger.ErrorContext(ctx, "the end of WAL cannot be found", "error", err)
		}
		return nil
	}
	return a.endOf(position)
}

func (a *Agent) endOf(p server.Position) *schemas.WalEnd {
	a.looks.keep(p.History)
	return &schemas.WalEnd{Timeline: int64(p.Timeline), Lsn: int64(p.End)} //nolint:gosec // no log reaches 2^63 bytes
}

// signalName names the signal that ended a postmaster, such as SIGKILL.
func signalName(e server.Exit) string {
	if name := unix.SignalName(e.Signal); name != "" {
		return name
	}
	return strconv.Itoa(int(e.Signal))
}
