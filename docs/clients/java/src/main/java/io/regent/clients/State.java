package io.regent.clients;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Follows a state topic as a member of a consumer group and prints each change as a line of JSON. Started again with the same group, it goes on
 * behind the last change that it has printed; after a crash it may print a few again (at least once).
 */
public final class State {
  private final Wire wire;

  private State(Wire wire) {
    this.wire = wire;
  }

  public static void main(String[] args) throws Exception {
    Options options = new Options(args);
    String topic = options.get("topic", "infra.state.postgres.v1");
    Map<String, Object> settings =
        Map.of( // credentials and TLS: security.protocol, sasl.* and ssl.*
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, options.get("brokers", "127.0.0.1:9092"),
            ConsumerConfig.GROUP_ID_CONFIG, options.required("group"),
            ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest", // a new group begins with the whole state
            ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed", // the reducer writes in transactions, and some are aborted
            ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false); // commits after the work is done
    State state = new State(new Wire(options.get("registry", "http://127.0.0.1:8081")));
    Thread main = Thread.currentThread();
    try (KafkaConsumer<String, byte[]> consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new ByteArrayDeserializer())) {
      Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(consumer, main)));
      consumer.subscribe(List.of(topic));
      while (true) {
        for (ConsumerRecord<String, byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
          state.take(record);
        }
        consumer.commitSync();
      }
    } catch (WakeupException e) {
      // Asked to stop. The consumer was closed in order, which tells the group at once.
    }
  }

  /** Ends the poll and waits until main is done. Halting with 0 says that the end was in order, which Java does not after a signal. */
  private static void stop(KafkaConsumer<?, ?> consumer, Thread main) {
    if (main.isAlive()) {
      consumer.wakeup();
      try {
        main.join(10_000);
      } catch (InterruptedException e) {
        return;
      }
      Runtime.getRuntime().halt(main.isAlive() ? 1 : 0);
    }
  }

  /** Is where your program does its work. It must bear to see a record twice. */
  private void take(ConsumerRecord<String, byte[]> record) throws Exception {
    ObjectNode line = Wire.JSON.createObjectNode();
    line.put("topic", record.topic()).put("partition", record.partition()).put("offset", record.offset()).put("key", record.key());
    if (record.value() == null) {
      line.put("deleted", true);
    } else {
      try {
        line.set("event", Wire.JSON.readTree(wire.decode(record.value()).toString()));
      } catch (Wire.Unreadable e) { // it will not become better by reading it again
        System.err.printf("skip %s/%d@%d: %s%n", record.topic(), record.partition(), record.offset(), e.getMessage());
        return;
      }
    }
    System.out.println(line);
  }
}
