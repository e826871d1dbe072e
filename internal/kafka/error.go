package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	// ErrUnreachable says that no broker answered in time. A retry can help.
	ErrUnreachable = errors.New("no broker answers")
	// ErrUnknownTopic says that a topic or partition does not exist.
	ErrUnknownTopic = errors.New("no such topic or partition")
	// ErrTopicExists says that a topic is there already, or is still being deleted.
	ErrTopicExists = errors.New("the topic exists")
	// ErrUnauthorized says that the brokers refuse these credentials, or what they may do. A retry cannot help.
	ErrUnauthorized = errors.New("not authorized")
	// ErrOutcomeUnknown says that a record may or may not have been written.
	ErrOutcomeUnknown = errors.New("the outcome is not known")
)

// explain says what was tried on which brokers, what came of it, and what may help.
func (c Config) explain(operation string, err error) error {
	if err == nil {
		return nil
	}
	at := "Kafka at " + strings.Join(c.Brokers, ", ")
	var broker *kerr.Error
	switch {
	case errors.As(err, &broker):
		return explainAnswer(at, operation, broker, err)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %s: %w", at, operation, err)
	case errors.Is(err, io.EOF):
		// What a broker does with a client that speaks plain text to TLS, or whose credentials it refuses.
		return fmt.Errorf("%s: %s: %w: it closed the connection (do both sides agree on TLS and SASL, and are the credentials right?): %w", at, operation, ErrUnreachable, err)
	case unreachable(err):
		return fmt.Errorf("%s: %s: %w (is it up, and is the address right?): %w", at, operation, ErrUnreachable, err)
	default:
		return fmt.Errorf("%s: %s: %w", at, operation, err)
	}
}

func unreachable(err error) bool {
	var network *net.OpError
	var resolver *net.DNSError
	return errors.As(err, &network) || errors.As(err, &resolver) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, kgo.ErrRecordTimeout) || errors.Is(err, kgo.ErrRecordRetries)
}

func explainAnswer(at, operation string, answer *kerr.Error, err error) error {
	switch answer {
	case kerr.UnknownTopicOrPartition, kerr.UnknownTopicID:
		return fmt.Errorf("%s: %s: %w (run `regent topics plan`): %w", at, operation, ErrUnknownTopic, err)
	case kerr.TopicAlreadyExists:
		return fmt.Errorf("%s: %s: %w: %w", at, operation, ErrTopicExists, err)
	case kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState:
		return fmt.Errorf("%s: %s: %w (check the SASL mechanism, user and password file): %w", at, operation, ErrUnauthorized, err)
	case kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed:
		return fmt.Errorf("%s: %s: %w (the user lacks an ACL for it): %w", at, operation, ErrUnauthorized, err)
	case kerr.InvalidReplicationFactor:
		return fmt.Errorf("%s: %s: the cluster has fewer brokers than replicas (on a small cluster use --replication-factor): %w", at, operation, err)
	case kerr.MessageTooLarge:
		return fmt.Errorf("%s: %s: the record is larger than the topic's max.message.bytes: %w", at, operation, err)
	case kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend:
		return fmt.Errorf("%s: %s: fewer replicas are in sync than min.insync.replicas asks for (try again when brokers are back): %w", at, operation, err)
	default:
		if answer.Retriable {
			return fmt.Errorf("%s: %s: %w (try again later)", at, operation, err)
		}
		return fmt.Errorf("%s: %s: %w", at, operation, err)
	}
}
