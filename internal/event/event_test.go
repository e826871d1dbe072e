package event

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/regent-infra/regent/schemas"
)

// The expected values are those of org.apache.kafka.common.utils.Utils.murmur2, as listed in Kafka's own UtilsTest.
func TestMurmur2AgreesWithJava(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestPartitionIsInRange(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int32Range(1, 1000).Draw(t, "n")
		p := Partition(ClusterID(rapid.String().Draw(t, "cluster")), n)
		if p < 0 || p >= n {
			t.Fatalf("partition %d is outside 0..%d", p, n-1)
		}
	})
}

func TestDeriveIDIsStableAndShapedAsVersion7(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(1_700_000_000_123)
	a, b := DeriveID(at, "topic", 3, 42), DeriveID(at, "topic", 3, 42)
	if a != b {
		t.Errorf("the same cause gave %s and %s", a, b)
	}
	if c := DeriveID(at, "topic", 34, 2); c == a {
		t.Errorf("another cause gave the same id %s", c)
	}
	id, err := uuid.Parse(a)
	if err != nil || id.Version() != 7 || id.Variant() != uuid.RFC4122 {
		t.Errorf("%s: version %d, variant %v, err %v; want a UUIDv7", a, id.Version(), id.Variant(), err)
	}
	if sec, nsec := id.Time().UnixTime(); time.Unix(sec, nsec).UnixMilli() != at.UnixMilli() {
		t.Errorf("%s carries %d ms, want %d", a, time.Unix(sec, nsec).UnixMilli(), at.UnixMilli())
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	cluster, err := ParseClusterID("postgres/orders")
	if err != nil {
		t.Fatal(err)
	}
	node := cluster.Node("pg-1")
	if node != "postgres/orders/node/pg-1" || node.Cluster() != cluster || node.Node() != "pg-1" || cluster.Kind() != KindPostgres || cluster.Name() != "orders" {
		t.Errorf("names do not compose: %s %s %s", node, node.Cluster(), node.Node())
	}
	if _, err := ParseResourceID(string(node)); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "orders", "postgres/", "postgres/Orders", "postgres/a/b/c/d", "postgres/orders/node/", "postgres/orders/disk/x", "postgres/-a"} {
		if _, err := ParseResourceID(bad); err == nil {
			t.Errorf("ParseResourceID(%q) accepted it", bad)
		}
	}
}

func TestNewNamesTheType(t *testing.T) {
	t.Parallel()
	e := New(schemas.EnvelopeHeader{Cluster: "postgres/orders"}, &schemas.NodeHeartbeat{Node: "pg-1"})
	if e.Type != "NodeHeartbeat" || e.Cluster != "postgres/orders" {
		t.Errorf("got %+v", e.EnvelopeHeader)
	}
}
