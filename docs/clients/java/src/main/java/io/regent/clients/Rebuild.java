package io.regent.clients;

import java.net.http.HttpClient;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Makes the state anew from a compacted topic, in its own memory, and compares it with what a Regent server holds: the latest value of each
 * key, byte for byte, by the digest that GET /v1/digests serves. Ends with 1 when they differ.
 */
public final class Rebuild {
  public static void main(String[] args) throws Exception {
    Options options = new Options(args);
    String topic = options.get("topic", "infra.state.postgres.v1");
    String server = options.get("server", "http://127.0.0.1:7400"); // regent up, or the one with the role reducer
    Duration timeout = Duration.ofSeconds(Long.parseLong(options.get("timeout", "60"))); // to go on comparing, once the state was read
    Map<String, Object> settings =
        Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, options.get("brokers", "127.0.0.1:9092"),
            ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false,
            ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
    HttpClient http = HttpClient.newHttpClient();
    Tables tables;
    Map<Integer, String> served;
    try (KafkaConsumer<String, byte[]> consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new ByteArrayDeserializer())) {
      List<TopicPartition> partitions = consumer.partitionsFor(topic).stream().map(p -> new TopicPartition(topic, p.partition())).toList();
      consumer.assign(partitions);
      consumer.seekToBeginning(partitions);
      tables = new Tables(partitions.size());
      // The state may change between reading it here and asking for it there: then read on and compare again.
      Instant deadline = null;
      while (true) {
        read(consumer, partitions, tables);
        deadline = deadline == null ? Instant.now().plus(timeout) : deadline;
        served = Tables.served(http, server, topic);
        if (tables.equal(served) || Instant.now().isAfter(deadline)) {
          break;
        }
        Thread.sleep(200);
      }
    }
    boolean same = tables.report(new Wire(options.get("registry", "http://127.0.0.1:8081")), served);
    System.exit(same ? 0 : 1);
  }

  /** Takes everything that was committed when it was called. Positions tell where it ends: a marker of a transaction is no record. */
  private static void read(KafkaConsumer<String, byte[]> consumer, List<TopicPartition> partitions, Tables tables) {
    Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
    while (partitions.stream().anyMatch(p -> consumer.position(p) < ends.get(p))) {
      for (ConsumerRecord<String, byte[]> record : consumer.poll(Duration.ofMillis(500))) {
        tables.put(record.partition(), record.key(), record.value());
      }
    }
  }
}
