package kafkaserver

import (
	"context"
	"fmt"
)

// Cluster is a set of brokers with one controller quorum. Topics have as many replicas as it has brokers, and take writes as long as all
// but one are in sync.
type Cluster struct{ nodes []*Server }

// StartCluster starts n brokers. It returns when all accept connections.
func StartCluster(ctx context.Context, dir string, n int) (*Cluster, error) {
	return StartClusterWith(ctx, dir, n, Options{})
}

// StartClusterWith is [StartCluster] with options.
func StartClusterWith(ctx context.Context, dir string, n int, options Options) (*Cluster, error) {
	return start(ctx, dir, n, options)
}

// Brokers returns the addresses of all brokers.
func (c *Cluster) Brokers() []string {
	var out []string
	for _, s := range c.nodes {
		out = append(out, s.Broker())
	}
	return out
}

// Node returns the broker with the node id, from 1 on.
func (c *Cluster) Node(id int32) *Server { return c.nodes[id-1] }

// Kill ends all brokers with SIGKILL.
func (c *Cluster) Kill() {
	for _, s := range c.nodes {
		s.Kill()
	}
}

// Roll stops and starts one broker after the other. settled says when the next may go: when all replicas are in sync again.
func (c *Cluster) Roll(ctx context.Context, settled func(context.Context) error) error {
	for _, s := range c.nodes {
		if err := s.Stop(ctx); err != nil {
			return fmt.Errorf("roll the brokers: %w", err)
		}
		if err := s.Restart(ctx); err != nil {
			return fmt.Errorf("roll the brokers: %w", err)
		}
		if err := settled(ctx); err != nil {
			return fmt.Errorf("roll the brokers: wait after the broker at %s: %w", s.address, err)
		}
	}
	return nil
}
