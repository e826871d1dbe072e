package io.regent.clients;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Has Regent do something, and waits for what becomes of it. Ends with 0 when the command is done, 1 when it failed, 3 when it was rejected, 4
 * when there was no outcome in time.
 *
 * <pre>Command --cluster postgres/orders --type CheckHealth --payload '{"timeout_ms": 2000}' --reason 'nightly check'</pre>
 *
 * Further options: --id (to repeat a command whose delivery is in doubt), --requested-by, --dry-run, --expires-in and --timeout in seconds.
 */
public final class Command {
  private static final int DONE = 0, FAILED = 1, REJECTED = 3, TIMED_OUT = 4;
  private static final String AGAIN = "it may still be carried out; to be sure, send it again with its --id: it is carried out once";

  private final String brokers, cluster, type, id;
  private final Wire wire;
  private final boolean dryRun;
  private final Instant deadline;

  private Command(Options options) {
    brokers = options.get("brokers", "127.0.0.1:9092");
    wire = new Wire(options.get("registry", "http://127.0.0.1:8081"));
    cluster = options.required("cluster");
    type = options.required("type");
    id = options.get("id", null) == null ? uuid7().toString() : options.required("id");
    dryRun = options.has("dry-run");
    deadline = Instant.now().plusSeconds(Long.parseLong(options.get("timeout", "300")));
  }

  public static void main(String[] args) throws Exception {
    Options options = new Options(args);
    Command command = new Command(options);
    String kind = command.cluster.split("/")[0];
    int code;
    try (KafkaConsumer<String, byte[]> outcomes = command.listen("infra.outcomes." + kind + ".v1")) { // before it is sent: no outcome is missed
      command.send("infra.commands." + kind + ".v1", options);
      code = command.await(outcomes);
    } catch (TimeoutException e) {
      System.err.println(e.getMessage());
      code = TIMED_OUT;
    }
    System.exit(code);
  }

  /** Returns a consumer that stands at the end of a topic. It belongs to no group: each waiting program sees all outcomes. */
  private KafkaConsumer<String, byte[]> listen(String topic) {
    KafkaConsumer<String, byte[]> consumer =
        new KafkaConsumer<>(
            Map.of(
                ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers,
                ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false,
                ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed"),
            new StringDeserializer(),
            new ByteArrayDeserializer());
    List<TopicPartition> partitions = consumer.partitionsFor(topic).stream().map(p -> new TopicPartition(topic, p.partition())).toList();
    consumer.assign(partitions);
    consumer.endOffsets(partitions).forEach(consumer::seek); // at once: seekToEnd waits until the first poll
    return consumer;
  }

  /** Writes the command and returns when all replicas in sync have it. */
  private void send(String topic, Options options) throws Exception {
    Wire.Writer writer = wire.writer(topic);
    Schema payloads = writer.schema().getField("payload").schema();
    Integer branch = payloads.getIndexNamed("io.regent.v1." + type);
    if (branch == null) {
      throw new IllegalArgumentException(topic + " carries no " + type);
    }
    Instant now = Instant.now();
    ObjectNode payload = (ObjectNode) Wire.JSON.readTree(options.get("payload", "{}"));
    payload
        .putObject("meta")
        .put("requested_by", options.get("requested-by", "program/example"))
        .put("reason", options.get("reason", ""))
        .put("expires_at", micros(now.plusSeconds(Long.parseLong(options.get("expires-in", "300")))))
        .put("dry_run", dryRun);
    GenericRecord event = new GenericData.Record(writer.schema());
    event.put("id", id);
    event.put("type", type);
    event.put("source", "program/example");
    event.put("cluster", cluster);
    event.put("resource", cluster);
    event.put("occurred_at", micros(now));
    event.put("correlation_id", id);
    event.put("causation_id", "");
    event.put("sequence", micros(now));
    event.put("boot_id", id);
    event.put("payload", Json.record(payloads.getTypes().get(branch), payload));
    // acks=all and an idempotent producer are the defaults: what has to be repeated is not written twice.
    Map<String, Object> settings = Map.of(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers, ProducerConfig.DELIVERY_TIMEOUT_MS_CONFIG, 40_000);
    try (KafkaProducer<String, byte[]> producer = new KafkaProducer<>(settings, new StringSerializer(), new ByteArraySerializer())) {
      long left = Math.max(0, Duration.between(Instant.now(), deadline).toMillis());
      // The key decides the partition.
      RecordMetadata sent = producer.send(new ProducerRecord<>(topic, cluster, writer.encode(event))).get(left, TimeUnit.MILLISECONDS);
      tell(Wire.JSON.createObjectNode().put("sent", id).put("topic", topic).put("partition", sent.partition()).put("offset", sent.offset()));
    } catch (ExecutionException e) {
      throw new IllegalStateException("send " + id + ": " + AGAIN, e);
    } catch (TimeoutException e) {
      throw new TimeoutException("send " + id + ": not acknowledged in time; " + AGAIN);
    }
  }

  /** Reads outcomes until the command has ended. */
  private int await(KafkaConsumer<String, byte[]> outcomes) throws Exception {
    while (Instant.now().isBefore(deadline)) {
      for (ConsumerRecord<String, byte[]> record : outcomes.poll(Duration.ofMillis(500))) {
        GenericRecord event;
        try {
          event = wire.decode(record.value());
        } catch (Wire.Unreadable e) {
          System.err.printf("skip %s/%d@%d: %s%n", record.topic(), record.partition(), record.offset(), e.getMessage());
          continue;
        }
        GenericRecord outcome = (GenericRecord) event.get("payload");
        if (!id.equals(String.valueOf(outcome.get("command_id")))) {
          continue;
        }
        String what = event.get("type").toString();
        ObjectNode line = Wire.JSON.createObjectNode().put("outcome", what);
        line.set("payload", Wire.JSON.readTree(outcome.toString()));
        tell(line);
        switch (what) {
          case "CommandAccepted":
            if (dryRun) return DONE; // there is nothing to wait for
            break;
          case "CommandCompleted":
            return DONE;
          case "CommandRejected":
            System.err.printf("rejected (%s): %s%n", outcome.get("reason"), outcome.get("message"));
            return REJECTED;
          case "CommandFailed":
            System.err.printf("failed: %s%n", outcome.get("message"));
            return FAILED;
          default: // of a newer version
        }
      }
    }
    throw new TimeoutException("no outcome of " + id + " in time; it may still be carried out");
  }

  private static long micros(Instant at) {
    return at.getEpochSecond() * 1_000_000 + at.getNano() / 1000;
  }

  /** Returns a UUID that begins with the time. */
  private static UUID uuid7() {
    ThreadLocalRandom random = ThreadLocalRandom.current();
    long high = System.currentTimeMillis() << 16 | 0x7000 | random.nextInt(0x1000);
    return new UUID(high, random.nextLong() & 0x3fffffffffffffffL | 0x8000000000000000L);
  }

  private static void tell(ObjectNode line) {
    System.out.println(line);
  }
}
