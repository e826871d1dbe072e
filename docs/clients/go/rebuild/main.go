// Command rebuild makes the state anew from a compacted topic, in its own memory, and compares it with what a Regent server holds: the
// latest value of each key, byte for byte, by the digest that GET /v1/digests serves. It ends with 1 when they differ.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/docs/clients/go/wire"
)

func main() {
	brokers := flag.String("brokers", "127.0.0.1:9092", "broker to start from")
	registry := flag.String("registry", "http://127.0.0.1:8081", "schema registry")
	server := flag.String("server", "http://127.0.0.1:7400", "Regent server that holds the state: regent up, or the one with the role reducer")
	topic := flag.String("topic", "infra.state.postgres.v1", "state topic")
	timeout := flag.Int("timeout", 60, "seconds to go on comparing while the state changes, once it was read")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *brokers, *registry, *server, *topic, time.Duration(*timeout)*time.Second); err != nil {
		log.Fatal(err)
	}
}

// state is the latest record of each key, by partition.
type state map[int32]map[string]*kgo.Record

func run(ctx context.Context, brokers, registry, server, topic string, timeout time.Duration) error {
	codec, err := wire.Connect(registry)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // a partition that ends in the marker of a transaction would never look read to its end
	)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", brokers, err)
	}
	defer client.Close()
	starts, err := kadm.NewClient(client).ListStartOffsets(ctx, topic)
	if err = errors.Join(err, starts.Error()); err != nil {
		return fmt.Errorf("find the beginning of %s: %w", topic, err)
	}
	client.AddConsumePartitions(starts.KOffsets())
	positions, s := map[int32]int64{}, state{}
	starts.Each(func(o kadm.ListedOffset) { positions[o.Partition], s[o.Partition] = o.Offset, map[string]*kgo.Record{} })

	// The state may change between reading it here and asking for it there: then read on and compare again.
	var deadline time.Time
	for {
		if err := s.read(ctx, client, topic, positions); err != nil {
			return err
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(timeout)
		}
		served, err := digests(ctx, server, topic)
		if err != nil {
			return err
		}
		if s.equal(served) {
			return s.report(ctx, codec, served)
		}
		if time.Now().After(deadline) {
			return errors.Join(s.report(ctx, codec, served), errors.New("the state that was rebuilt is not the one that is served"))
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// read takes everything that was committed when it was called.
func (s state) read(ctx context.Context, client *kgo.Client, topic string, positions map[int32]int64) error {
	ends, err := kadm.NewClient(client).ListCommittedOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return fmt.Errorf("find the end of %s: %w", topic, err)
	}
	behind := func() (any bool) {
		ends.Each(func(o kadm.ListedOffset) { any = any || positions[o.Partition] < o.Offset })
		return any
	}
	for behind() {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read %s: %w", topic, err)
		}
		for _, r := range fetches.Records() {
			positions[r.Partition] = r.Offset + 1
			switch {
			case r.Attrs.IsControl():
			case r.Value == nil: // a tombstone
				delete(s[r.Partition], string(r.Key))
			default:
				s[r.Partition][string(r.Key)] = r
			}
		}
	}
	return nil
}

// digest is the SHA-256 over each key and value in key order, each after its length as 4 bytes, big endian.
func (s state) digest(partition int32) string {
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(s[partition])) {
		for _, b := range [][]byte{[]byte(key), s[partition][key].Value} {
			h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
			h.Write(b)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (s state) equal(served map[int32]string) bool {
	for partition := range s {
		if s.digest(partition) != served[partition] {
			return false
		}
	}
	return true
}

// report prints a line for each partition, and reads every value: the state is not only there, it can be understood.
func (s state) report(ctx context.Context, codec *wire.Codec, served map[int32]string) error {
	out := json.NewEncoder(os.Stdout)
	for _, partition := range slices.Sorted(maps.Keys(s)) {
		types := map[string]int{}
		for _, r := range s[partition] {
			event, _, err := codec.Decode(ctx, r.Value)
			if err != nil {
				return fmt.Errorf("read %s/%d@%d: %w", r.Topic, r.Partition, r.Offset, err)
			}
			types[fmt.Sprint(event["type"])]++
		}
		sum := s.digest(partition)
		if err := out.Encode(map[string]any{
			"partition": partition, "keys": len(s[partition]), "types": types, "sum": sum, "served": served[partition], "equal": sum == served[partition],
		}); err != nil {
			return err
		}
	}
	return nil
}

// digests asks a server for the digest of each partition of the table whose changelog the topic is.
func digests(ctx context.Context, server, topic string) (map[int32]string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/v1/digests", nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer struct {
		Digests []struct {
			Changelog string `json:"changelog"`
			Partition int32  `json:"partition"`
			Sum       string `json:"sum"`
		} `json:"digests"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask %s for its digests: %s: %w", server, response.Status, cmp.Or(err, errors.New("expected 200")))
	}
	sums := map[int32]string{}
	for _, d := range answer.Digests {
		if d.Changelog == topic {
			sums[d.Partition] = d.Sum
		}
	}
	if len(sums) == 0 {
		return nil, fmt.Errorf("%s holds no table of %s: ask the server with the role that writes it", server, topic)
	}
	return sums, nil
}
