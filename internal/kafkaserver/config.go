package kafkaserver

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/regent-infra/regent/internal/freeport"
)

// plan gives n brokers their directories, ports and settings.
func plan(dir string, n int, options Options) (*Cluster, error) {
	if len(options.Advertise) > 0 && len(options.Advertise) != n {
		return nil, fmt.Errorf("%d advertised addresses are given, expected one for each of %d brokers", len(options.Advertise), n)
	}
	ports, err := freeport.Find(3 * n)
	if err != nil {
		return nil, err
	}
	c := &Cluster{}
	var voters []string
	for i := range n {
		s := &Server{dir: dir, address: loopback(ports[3*i])}
		if n > 1 {
			s.dir = filepath.Join(dir, fmt.Sprintf("broker-%d", i+1))
		}
		c.nodes = append(c.nodes, s)
		voters = append(voters, fmt.Sprintf("%d@%s", i+1, loopback(ports[3*i+1])))
	}
	for i, s := range c.nodes {
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return nil, err
		}
		settings := defaults(i+1, n)
		settings["controller.quorum.voters"] = strings.Join(voters, ",")
		settings["log.dirs"] = filepath.Join(s.dir, "data")
		listeners(settings, s.address, loopback(ports[3*i+1]), loopback(ports[3*i+2]))
		advertised := s.address
		if len(options.Advertise) > 0 {
			advertised = options.Advertise[i]
		}
		settings["advertised.listeners"] = "CLIENT://" + advertised + ",BROKER://" + loopback(ports[3*i+2])
		if options.User != "" {
			settings["listener.security.protocol.map"] = "CLIENT:SASL_PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT"
			settings["listener.name.client.sasl.enabled.mechanisms"] = "SCRAM-SHA-256"
			settings["listener.name.client.scram-sha-256.sasl.jaas.config"] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		}
		maps.Copy(settings, options.Settings)
		var text strings.Builder
		for _, name := range slices.Sorted(maps.Keys(settings)) {
			fmt.Fprintf(&text, "%s=%s\n", name, settings[name])
		}
		if err := os.WriteFile(s.properties(), []byte(text.String()), 0o600); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func listeners(settings map[string]string, client, controller, broker string) {
	settings["listeners"] = "CLIENT://" + client + ",BROKER://" + broker + ",CONTROLLER://" + controller
	settings["inter.broker.listener.name"] = "BROKER"
	settings["controller.listener.names"] = "CONTROLLER"
	settings["listener.security.protocol.map"] = "CLIENT:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT"
}

// defaults are the settings of broker id of n.
func defaults(id, n int) map[string]string {
	replicas, inSync := fmt.Sprint(n), fmt.Sprint(max(1, n-1))
	return map[string]string{
		"process.roles":                                               "broker,controller",
		"node.id":                                                     fmt.Sprint(id),
		"default.replication.factor":                                  replicas,
		"min.insync.replicas":                                         inSync,
		"offsets.topic.replication.factor":                            replicas,
		"offsets.topic.num.partitions":                                "4",
		"transaction.state.log.replication.factor":                    replicas,
		"transaction.state.log.min.isr":                               inSync,
		"transaction.state.log.num.partitions":                        "4",
		"transaction.max.timeout.ms":                                  "10000",
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
		"share.coordinator.state.topic.replication.factor":            replicas,
		"share.coordinator.state.topic.min.isr":                       inSync,
		"share.coordinator.state.topic.num.partitions":                "1",
		"group.initial.rebalance.delay.ms":                            "0",
		"group.min.session.timeout.ms":                                "1000",
		"auto.create.topics.enable":                                   "false",
		"broker.heartbeat.interval.ms":                                "500",
		"broker.session.timeout.ms":                                   "3000",
		"num.network.threads":                                         "2",
		"num.io.threads":                                              "4",
		"log.cleaner.dedupe.buffer.size":                              "16777216",
	}
}
