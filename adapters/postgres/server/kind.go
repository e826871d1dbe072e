package server

import (
	"regexp"
	"strings"
)

// kind is what a server process is for, as its title tells (ps_status.c; update_process_title is on).
type kind uint8

const (
	// kindNew has no title yet: forked a moment ago.
	kindNew kind = iota
	kindPostmaster
	kindStartup
	kindReceiver
	kindSender
	kindClient
	kindAuxiliary
)

// peerPattern is how a title names the other end of a connection: 10.0.0.1(5432) or [local].
var peerPattern = regexp.MustCompile(` (\[local\]|\S+\(\d+\))( |$)`)

// kind tells from the title what a process is. The title of a backend is
// "postgres: CLUSTER: user database peer state"; that of the others begins with their name.
func (i *Instance) kind(p process) kind {
	rest, ok := strings.CutPrefix(p.title, "postgres: ")
	if !ok {
		if strings.Contains(p.title, " -D ") && p.pid == i.PID() {
			return kindPostmaster
		}
		return kindNew
	}
	rest = strings.TrimPrefix(rest, i.config.ClusterName+": ")
	word, _, _ := strings.Cut(rest, " ")
	hasPeer := peerPattern.MatchString(rest)
	switch {
	case word == "walsender":
		return kindSender
	case hasPeer:
		return kindClient
	case word == "walreceiver":
		return kindReceiver
	case word == "startup":
		return kindStartup
	default:
		return kindAuxiliary
	}
}
