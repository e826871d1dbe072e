package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/checkpoint"
	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/telemetry"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

func (a *app) checkpointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "checkpoint", GroupID: groupTools,
		Short: "Make, list, verify, export, import and delete copies of the state with the positions that it stands at",
		Long: `A checkpoint is a copy of the state of the processors of one data directory, with the positions in the topics that it stands at. It costs the
space of what has changed since. What it is for:

  regent replay, regent get --at    moments that compaction has taken from the topics: those of a checkpoint, and after it as long as nothing
                                    is missing between
  regent rebuild --from             a state of another machine, or of before, to begin with; the rest is redone from the topics

A process that keeps state makes one every checkpoints.interval (6h unless configured) and keeps checkpoints.keep of those (8). They lie in
the directory checkpoints of the data directory. No secret is in it, and nothing that names the instance.`,
		Example: `  regent checkpoint create before-upgrade
  regent checkpoint export before-upgrade before-upgrade.tar.zst`,
	}
	return parent(cmd, a.checkpointCreate(), a.checkpointList(), a.checkpointVerify(), a.checkpointExport(), a.checkpointImport(), a.checkpointDelete())
}

// library opens the checkpoints of the configured data directory.
func (a *app) library(cmd *cobra.Command) (checkpoint.Library, *config.Loaded, error) {
	c, err := a.load(cmd)
	if err != nil {
		return checkpoint.Library{}, nil, err
	}
	return checkpoint.NewLibrary(filepath.Join(c.Data.Dir, checkpointsDir)), c, nil
}

func dataDirFlag(cmd *cobra.Command) { config.BindFlag(cmd.Flags(), "data-dir", "data.dir") }

func (a *app) checkpointCreate() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a checkpoint of a server on this machine, running or stopped",
		Long: `Make a checkpoint of the state in a data directory on this machine. A server that runs on it is asked to, by a file in there, and makes it of
everything that is committed; of a stopped one it is as of its end. Without a name it is called after the moment.`,
		Example: `  regent checkpoint create
  regent checkpoint create before-upgrade --data-dir /var/lib/regent`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, c, err := a.library(cmd)
			if err != nil {
				return err
			}
			if timeout <= 0 {
				return usagef("--timeout %s: expected more than 0", timeout)
			}
			name := strings.Join(args, "")
			if name == "" {
				name = checkpoint.MomentName(a.clock.Now())
			}
			if err := checkpoint.CheckName(name); err != nil {
				return withCode(exitUsage, err)
			}
			made, err := a.createCheckpoint(cmd.Context(), c, l, name, timeout)
			if err != nil {
				return err
			}
			a.printf("%s  %s in %d files, %d tasks of the Kafka cluster %s\n", made.Name, sizeText(made.Bytes()), len(made.Files), len(made.Tasks), made.ClusterID)
			return nil
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for a running server")
	dataDirFlag(cmd)
	return cmd
}

func (a *app) createCheckpoint(ctx context.Context, c *config.Loaded, l checkpoint.Library, name string, timeout time.Duration) (checkpoint.Named, error) {
	dir := filepath.Join(c.Data.Dir, storeDir)
	if _, err := os.Stat(filepath.Join(dir, "ACTIVE")); err != nil {
		return checkpoint.Named{}, fmt.Errorf("make a checkpoint: the data directory %s holds no state (is it the right one? --data-dir names another): %w", c.Data.Dir, err)
	}
	store, err := pebblestore.Open(pebblestore.Options{Dir: dir})
	if errors.Is(err, statestore.ErrInUse) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return l.Request(ctx, name, a.clock)
	}
	if err != nil {
		return checkpoint.Named{}, err
	}
	made, err := l.Create(ctx, store, name, checkpoint.Options{Program: telemetry.ReadBuild(version).Version, Clock: a.clock})
	return made, errors.Join(err, store.Close())
}

// listedCheckpoint is a checkpoint, for programs.
type listedCheckpoint struct {
	Name      string            `json:"name"`
	CreatedAt time.Time         `json:"created_at,omitzero"`
	Program   string            `json:"program,omitempty"`
	ClusterID string            `json:"cluster_id,omitempty"`
	Bytes     int64             `json:"bytes"`
	Tasks     []checkpoint.Task `json:"tasks"`
	Error     string            `json:"error,omitempty"`
}

func (a *app) checkpointList() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the checkpoints of a data directory, the oldest first",
		Example: `  regent checkpoint list
  regent checkpoint list --data-dir /var/lib/regent -o wide      # with the positions`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, _, err := a.library(cmd)
			if err != nil {
				return err
			}
			o, err := a.output(format)
			if err != nil {
				return err
			}
			all, err := l.List()
			if err != nil {
				return err
			}
			list := []listedCheckpoint{}
			for _, c := range all {
				one := listedCheckpoint{Name: c.Name, Tasks: []checkpoint.Task{}}
				if c.Err != nil {
					one.Error = c.Err.Error()
				} else {
					one.CreatedAt, one.Program, one.ClusterID, one.Bytes, one.Tasks = c.CreatedAt, c.Program, c.ClusterID, c.Bytes(), c.Tasks
				}
				list = append(list, one)
			}
			if done, err := o.structured(map[string]any{"directory": l.Dir(), "checkpoints": list}); done {
				return err
			}
			a.printCheckpoints(o, l, list)
			return nil
		},
	}
	dataDirFlag(cmd)
	a.addOutput(cmd, &format)
	return cmd
}

func (a *app) printCheckpoints(o *output, l checkpoint.Library, list []listedCheckpoint) {
	if len(list) == 0 {
		fmt.Fprintf(o.out, "there are no checkpoints in %s (regent checkpoint create makes one)\n", l.Dir())
		return
	}
	now := a.clock.Now()
	t := &table{header: []string{"NAME", "CREATED", "AGE", "SIZE", "TASKS", "CLUSTER", "PROGRAM"}, right: []int{2, 3, 4}}
	for _, c := range list {
		if c.Error != "" {
			t.add(c.Name, o.style.health("FAULT"), "-", "-", "-", "-", c.Error)
			continue
		}
		t.add(c.Name, c.CreatedAt.UTC().Format(time.RFC3339), age(now, c.CreatedAt), sizeText(c.Bytes), fmt.Sprint(len(c.Tasks)), c.ClusterID, orDash(c.Program))
	}
	t.print(o)
	if o.format != formatWide {
		return
	}
	fmt.Fprintln(o.out)
	positions := &table{header: []string{"CHECKPOINT", "PROCESSOR", "TASK", "OUT", "STREAM TIME", "FOLD"}, right: []int{2, 3, 5}}
	for _, c := range list {
		for _, task := range c.Tasks {
			at := "-"
			if !task.StreamTime.IsZero() {
				at = task.StreamTime.UTC().Format(time.RFC3339)
			}
			positions.add(c.Name, task.Processor, fmt.Sprint(task.Task), fmt.Sprint(task.Out), at, fmt.Sprint(task.FoldVersion))
		}
	}
	positions.print(o)
}

func (a *app) checkpointVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "verify NAME",
		Short:   "Compare every file of a checkpoint with its digest",
		Example: `  regent checkpoint verify before-upgrade`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.oneCheckpoint(cmd, args[0])
			if err != nil {
				return err
			}
			if err := c.Verify(cmd.Context()); err != nil {
				return err
			}
			a.printf("%s: %d files, %s, all as they were written\n", args[0], len(c.Files), sizeText(c.Bytes()))
			return nil
		},
	}
	dataDirFlag(cmd)
	return cmd
}

func (a *app) oneCheckpoint(cmd *cobra.Command, name string) (*checkpoint.Checkpoint, error) {
	l, _, err := a.library(cmd)
	if err != nil {
		return nil, err
	}
	if err := checkpoint.CheckName(name); err != nil {
		return nil, withCode(exitUsage, err)
	}
	return l.Open(name)
}

func (a *app) checkpointExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export NAME FILE",
		Short: "Write a checkpoint to one file (-: standard output)",
		Long: `Write a checkpoint to one file: a tar archive compressed with zstd, with a manifest of all positions and a digest of every file. A file that
exists is not overwritten.`,
		Example: `  regent checkpoint export before-upgrade before-upgrade.tar.zst
  regent checkpoint export nightly - | ssh other 'regent checkpoint import -'`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			c, err := a.oneCheckpoint(cmd, args[0])
			if err != nil {
				return err
			}
			if args[1] == "-" {
				return c.Export(cmd.Context(), a.env.Stdout)
			}
			file, err := os.OpenFile(args[1], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640) //nolint:gosec // the person names the file
			if errors.Is(err, fs.ErrExist) {
				return usagef("export the checkpoint %s: the file %s exists, expected a new one", args[0], args[1])
			}
			if err != nil {
				return fmt.Errorf("export the checkpoint %s: %w", args[0], err)
			}
			err = c.Export(cmd.Context(), file)
			if err == nil {
				err = file.Sync()
			}
			if err = errors.Join(err, file.Close()); err != nil {
				return errors.Join(err, os.Remove(args[1]))
			}
			info, err := os.Stat(args[1])
			if err != nil {
				return err
			}
			a.printf("%s: %s of state in a file of %s\n", args[1], sizeText(c.Bytes()), sizeText(info.Size()))
			return nil
		},
	}
	dataDirFlag(cmd)
	return cmd
}

func (a *app) checkpointImport() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take an exported checkpoint into a data directory (-: standard input)",
		Long: `Take an exported checkpoint into the checkpoints of a data directory, which may be a new one. Every file is compared with its digest; if anything
is wrong, nothing is left of it. regent rebuild --from starts a server with it.`,
		Example: `  regent checkpoint import nightly.tar.zst --data-dir /var/lib/regent
  regent checkpoint import nightly.tar.zst --name seed && regent rebuild --from seed`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, _, err := a.library(cmd)
			if err != nil {
				return err
			}
			if name != "" {
				if err := checkpoint.CheckName(name); err != nil {
					return withCode(exitUsage, err)
				}
			}
			in := a.env.Stdin
			if args[0] != "-" {
				file, err := os.Open(args[0])
				if err != nil {
					return usagef("import a checkpoint: %w", err)
				}
				defer func() { _ = file.Close() }() // it was read
				in = file
			}
			made, err := l.Import(cmd.Context(), in, name)
			if err != nil {
				return err
			}
			a.printf("%s  made %s by %s of the Kafka cluster %s, %s\n", made.Name, made.CreatedAt.UTC().Format(time.RFC3339), orDash(made.Program), made.ClusterID, sizeText(made.Bytes()))
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "what it is called (default: the moment at which it was made)")
	dataDirFlag(cmd)
	return cmd
}

func (a *app) checkpointDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete NAME...",
		Short:   "Delete checkpoints",
		Example: `  regent checkpoint delete before-upgrade nightly`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, _, err := a.library(cmd)
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := checkpoint.CheckName(name); err != nil {
					return withCode(exitUsage, err)
				}
			}
			for _, name := range args {
				if err := l.Remove(name); err != nil {
					return err
				}
				a.printf("%s deleted\n", name)
			}
			return nil
		},
	}
	dataDirFlag(cmd)
	return cmd
}
