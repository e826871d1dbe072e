package server

import (
	"fmt"
	"path/filepath"
	"strings"
)

const hbaFile = "pg_hba.conf"

// renderHBA writes who may connect. The socket's folder is open to the server's user (and root) alone, so its superuser needs no
// password there; everything over TCP proves itself by SCRAM. With clients cut off, only the agent, standbys and pg_rewind remain.
func (c Config) renderHBA(cut bool) []byte {
	var b strings.Builder
	b.WriteString("# Written by Regent. Do not edit: it is replaced on every change. Give rules for clients to Regent instead.\n")
	fmt.Fprintf(&b, "local all %s trust\n", c.Superuser.User)
	fmt.Fprintf(&b, "local replication %s trust\n", c.Superuser.User)
	fmt.Fprintf(&b, "host replication %s all scram-sha-256\n", c.Replication.User)
	fmt.Fprintf(&b, "host all %s all scram-sha-256\n", c.Rewind.User)
	if cut {
		b.WriteString("# Clients are cut off.\nlocal all all reject\nhost all all all reject\n")
		return []byte(b.String())
	}
	for _, rule := range c.ClientRules {
		b.WriteString(rule + "\n")
	}
	return []byte(b.String())
}

func (i *Instance) writeHBA() error {
	return i.identity.ensureFile(filepath.Join(i.config.DataDir, hbaFile), i.config.renderHBA(i.clientsCut), 0o600)
}
