package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/telemetry"
)

func (a *app) configCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use: "config", GroupID: groupTools, Short: "Show and check the configuration",
		Long: `The configuration comes from, each over the one before: defaults, the context in force, the file, the environment (REGENT_…), the flags.`,
		Example: `  regent config show
  regent config show --changed
  regent config check --config /etc/regent/regent.yaml`,
	}, a.configShowCommand(), a.configCheckCommand())
}

// shownSetting is one setting for programs.
type shownSetting struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Source  string `json:"source"`
	Default string `json:"default"`
	Type    string `json:"type"`
	Unit    string `json:"unit,omitempty"`
	Env     string `json:"env,omitempty"`
	Doc     string `json:"doc"`
}

func (a *app) configShowCommand() *cobra.Command {
	var format string
	var changed bool
	cmd := &cobra.Command{
		Use: "show [PREFIX]", Short: "Show every setting with its value and where it comes from; secrets are masked",
		Example: `  regent config show listen
  regent config show --changed
  regent config show -o wide           # with what each is for and its environment variable`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			o, err := a.output(format)
			if err != nil {
				return err
			}
			shown := []shownSetting{}
			for _, s := range config.Settings() {
				if !strings.HasPrefix(s.Key, strings.Join(args, "")) || changed && !c.Set(s.Key) {
					continue
				}
				shown = append(shown, shownSetting{
					Key: s.Key, Value: telemetry.CleanText(c.Value(s.Key)), Source: c.Source(s.Key), Default: s.Default, Type: s.Type, Unit: s.Unit, Env: s.Env, Doc: s.Doc,
				})
			}
			if done, err := o.structured(shown); done {
				return err
			}
			t := &table{header: []string{"KEY", "VALUE", "SOURCE"}}
			if o.format == formatWide {
				t.header = append(t.header, "DEFAULT", "ENVIRONMENT", "WHAT FOR")
			}
			for _, s := range shown {
				cells := []string{s.Key, orDash(s.Value), s.Source}
				if o.format == formatWide {
					cells = append(cells, orDash(s.Default), orDash(s.Env), s.Doc)
				}
				t.add(cells...)
			}
			t.print(o)
			return nil
		},
	}
	cmd.Flags().BoolVar(&changed, "changed", false, "only what is not at its default")
	a.addOutput(cmd, &format)
	return cmd
}

func (a *app) configCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Read the configuration and report everything that is wrong with it",
		Example: "  regent config check --config /etc/regent/regent.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			file := "no file"
			if c.File != "" {
				file = c.File
			}
			a.printf("the configuration is valid (%s)\n", file)
			return nil
		},
	}
}

func (a *app) versionCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "version", GroupID: groupTools, Short: "Show the version of this binary",
		Example: "  regent version -o json",
		RunE: func(*cobra.Command, []string) error {
			o, err := a.output(format)
			if err != nil {
				return err
			}
			b := telemetry.ReadBuild(version)
			if done, err := o.structured(b); done {
				return err
			}
			fmt.Fprintf(o.out, "regent %s\n", b.Version)
			if b.Commit != "" {
				modified := ""
				if b.Modified {
					modified = ", modified"
				}
				fmt.Fprintf(o.out, "  commit %s of %s%s\n", b.Commit, b.CommittedAt, modified)
			}
			fmt.Fprintf(o.out, "  %s\n", b.Go)
			return nil
		},
	}
	a.addOutput(cmd, &format)
	return cmd
}

func (a *app) completionCommand() *cobra.Command {
	shells := map[string]func(*cobra.Command, io.Writer) error{
		"bash":       func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"zsh":        func(root *cobra.Command, w io.Writer) error { return root.GenZshCompletion(w) },
		"fish":       func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
		"powershell": func(root *cobra.Command, w io.Writer) error { return root.GenPowerShellCompletionWithDesc(w) },
	}
	names := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use: "completion bash|zsh|fish|powershell", GroupID: groupTools, Short: "Print a completion script for a shell",
		Example: `  source <(regent completion bash)
  regent completion zsh > "${fpath[1]}/_regent"
  regent completion fish > ~/.config/fish/completions/regent.fish`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			return shells[args[0]](cmd.Root(), a.env.Stdout)
		},
	}
}
