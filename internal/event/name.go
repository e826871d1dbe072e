package event

import (
	"fmt"
	"regexp"
	"strings"
)

// Kind is a kind of infrastructure, the K in topic names.
type Kind string

// Kinds that Regent knows.
const (
	KindPostgres Kind = "postgres"
)

// ClusterID names a cluster: kind/name, such as postgres/orders. It decides the partition of everything about the cluster.
type ClusterID string

// ResourceID names a part of a cluster: cluster/type/name, such as postgres/orders/node/pg-1. The cluster's own id is the
// resource id of facts about the whole cluster.
type ResourceID string

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$`)

// ValidName reports whether s may name a cluster or a node: 1 to 48 characters of a-z, 0-9 and hyphen, which neither begins nor
// ends it. Slot names, application names and file names are made from such names.
func ValidName(s string) bool { return namePattern.MatchString(s) }

// NewClusterID joins kind and name.
func NewClusterID(kind Kind, name string) ClusterID { return ClusterID(string(kind) + "/" + name) }

// ParseClusterID checks s and returns it as a cluster id.
func ParseClusterID(s string) (ClusterID, error) {
	kind, name, ok := strings.Cut(s, "/")
	if !ok || !ValidName(kind) || !ValidName(name) {
		return "", fmt.Errorf("parse cluster id %q: expected kind/name such as postgres/orders, each of a-z, 0-9 and hyphen, at most 48 characters", s)
	}
	return ClusterID(s), nil
}

// Kind returns the part before the slash.
func (c ClusterID) Kind() Kind {
	kind, _, _ := strings.Cut(string(c), "/")
	return Kind(kind)
}

// Name returns the part after the slash.
func (c ClusterID) Name() string {
	_, name, _ := strings.Cut(string(c), "/")
	return name
}

// Node returns the resource id of one of the cluster's nodes.
func (c ClusterID) Node(name string) ResourceID { return ResourceID(string(c) + "/node/" + name) }

// Resource returns the id of the cluster as a resource.
func (c ClusterID) Resource() ResourceID { return ResourceID(c) }

// ParseResourceID checks s and returns it as a resource id: a cluster id, or one followed by /node/name.
func ParseResourceID(s string) (ResourceID, error) {
	parts := strings.Split(s, "/")
	if len(parts) == 2 {
		c, err := ParseClusterID(s)
		return c.Resource(), err
	}
	if len(parts) != 4 || parts[2] != "node" || !ValidName(parts[3]) {
		return "", fmt.Errorf("parse resource id %q: expected kind/cluster or kind/cluster/node/name, such as postgres/orders/node/pg-1", s)
	}
	if _, err := ParseClusterID(parts[0] + "/" + parts[1]); err != nil {
		return "", fmt.Errorf("parse resource id %q: %w", s, err)
	}
	return ResourceID(s), nil
}

// Cluster returns the cluster that the resource belongs to.
func (r ResourceID) Cluster() ClusterID {
	parts := strings.SplitN(string(r), "/", 3)
	if len(parts) < 2 {
		return ClusterID(r)
	}
	return ClusterID(parts[0] + "/" + parts[1])
}

// Node returns the node name, or "" if the resource is no node.
func (r ResourceID) Node() string {
	parts := strings.Split(string(r), "/")
	if len(parts) == 4 && parts[2] == "node" {
		return parts[3]
	}
	return ""
}
