package kafkaserver

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

func TestApacheKafkaTakesTransactions(t *testing.T) {
	t.Parallel()
	server, err := Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)

	producer, err := kgo.NewClient(kgo.SeedBrokers(server.Broker()), kgo.TransactionalID("t"), kgo.TransactionTimeout(5*time.Second), kgo.DefaultProduceTopic("accounts"))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	if _, err := kadm.NewClient(producer).CreateTopic(t.Context(), 1, 1, nil, "accounts"); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := producer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := producer.ProduceSync(t.Context(), &kgo.Record{Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := producer.EndTransaction(t.Context(), kgo.TransactionEndTry(i == 1)); err != nil {
			t.Fatal(err)
		}
	}

	consumer, err := kgo.NewClient(kgo.SeedBrokers(server.Broker()), kgo.ConsumeTopics("accounts"), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	fetches := consumer.PollFetches(t.Context())
	if err := fetches.Err(); err != nil {
		t.Fatal(err)
	}
	records := fetches.Records()
	if len(records) != 1 || string(records[0].Value) != "1" {
		t.Errorf("read %d records, want only the committed one", len(records))
	}
}

func TestApacheKafkaAsksForAPassword(t *testing.T) {
	t.Parallel()
	const password = `a/password"<&`
	server, err := StartWith(t.Context(), t.TempDir(), Options{User: "regent", Password: password})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	ping := func(given string) error {
		auth := scram.Auth{User: "regent", Pass: given}
		client, err := kgo.NewClient(kgo.SeedBrokers(server.Broker()), kgo.SASL(auth.AsSha256Mechanism()))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		return client.Ping(t.Context())
	}
	if err := ping(password); err != nil {
		t.Errorf("with the password: %v", err)
	}
	if err := ping("wrong"); err == nil {
		t.Error("a wrong password was accepted")
	}
}
