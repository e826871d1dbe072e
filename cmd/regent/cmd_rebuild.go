package main

import (
	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/config"
)

func (a *app) rebuildCommand() *cobra.Command {
	var format, from string
	var verify, crossCheck bool
	cmd := &cobra.Command{
		Use: "rebuild", GroupID: groupTools,
		Short: "Make the state anew from the topics, and swap it in; or compare it beside a running server",
		Long: `Make the state of a stopped server's processors anew from their output topics, which are event and redo log in one: beside the state that
is there, compared with the topics key by key, and swapped in by one atomic rename. Whatever ends it before leaves the old state as it was.

The data directory says which server it is. That of regent up holds the broker too, which is opened on free ports of this machine for as long as
the rebuild takes, so that nobody else writes meanwhile. For that of regent server, --brokers, --registry and --roles are those of the server;
other servers may go on.

Beside the rebuild, the inputs are folded again from their beginning, and what comes out is compared with the state: the cross-check. It says where
the two cannot be compared, and changes nothing. --cross-check=false leaves it out.

With --from the state begins with a checkpoint (a name, a directory or an exported file), and only what was written to the topics since is
applied to it: so a server starts with the state of another machine. One of another Kafka cluster, or of topics that were made anew, is refused.

With --verify nothing is made: the state of a running server is compared with the topics, by a digest over every key and value.`,
		Example: `  regent rebuild                                               # of regent up in the default data directory
  regent rebuild --data-dir /var/lib/regent --cross-check=false
  regent rebuild --data-dir /var/lib/regent/reducer --roles reducer,fleet --brokers kafka-1:9092 --registry http://registry:8081
  regent rebuild --from nightly.tar.zst --data-dir /var/lib/regent
  regent rebuild --verify                                      # beside the running server
  regent rebuild --verify -o json | jq '.partitions[] | select(.equal | not)'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			o, err := a.output(format)
			if err != nil {
				return err
			}
			if verify {
				for _, name := range []string{"cross-check", "data-dir", "roles", "from"} {
					if cmd.Flags().Changed(name) {
						return usagef("--%s says how a state is made, and --verify that none is: expected one of them", name)
					}
				}
				return a.verifyState(cmd.Context(), c, o)
			}
			return a.rebuildState(cmd.Context(), c, o, rebuildFlags{crossCheck: crossCheck, from: from})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&verify, "verify", false, "beside the running server: compare, change nothing")
	f.StringVar(&from, "from", "", "begin with this checkpoint: a name, a directory or an exported file")
	f.BoolVar(&crossCheck, "cross-check", true, "fold the inputs again and compare what comes out")
	config.BindFlag(f, "data-dir", "data.dir")
	config.BindFlag(f, "roles", "process.roles")
	addLink(cmd)
	a.addOutput(cmd, &format)
	return cmd
}
