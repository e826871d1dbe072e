package server

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// Address is where a server listens.
type Address struct {
	Host string
	Port uint16
}

// String is host:port.
func (a Address) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))) }

func (a Address) validate() error {
	if a.Host == "" || strings.ContainsAny(a.Host, "'\\,\r\n\x00 ") || a.Port == 0 {
		return fmt.Errorf("address %q: expected one host name or IP address and a port", a.String())
	}
	return nil
}

const passFileName = "passfile"

// passFile is the only place from which a WAL receiver gets its password. Without an entry there, a reconnection with cached settings
// cannot authenticate: libpq reads the file anew for each connection.
func (i *Instance) passFile() string { return filepath.Join(i.config.RunDir, passFileName) }

// passLine is one line of a passfile: host:port:database:user:password with \ and : escaped.
func passLine(a Address, database string, c Credential) string {
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace
	return fmt.Sprintf("%s:%d:%s:%s:%s\n", escape(a.Host), a.Port, database, escape(c.User), escape(c.Password.Reveal()))
}

func (i *Instance) writePassFile(a Address) error {
	return i.identity.writeFile(i.passFile(), []byte(passLine(a, "replication", i.config.Replication)), 0o600)
}

// conninfo quotes key = 'value' pairs for libpq.
func conninfo(pairs ...[2]string) string {
	var parts []string
	for _, p := range pairs {
		parts = append(parts, p[0]+"='"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(p[1])+"'")
	}
	return strings.Join(parts, " ")
}
