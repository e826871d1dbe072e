package io.regent.clients;

import java.net.http.HttpClient;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.common.utils.Utils;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.ReadOnlyKeyValueStore;

/**
 * Reads a state topic as a table of Kafka Streams and compares it with what a Regent server holds, as Rebuild does. With {@code --kind global} it
 * is a GlobalKTable (the whole state in every instance, for lookups), else a KTable (each instance has its partitions, for joins and reactions).
 *
 * <p>In both the topic is the changelog: nothing is copied into a topic of the application's own.
 */
public final class Table {
  private static final String STORE = "state";

  public static void main(String[] args) throws Exception {
    Options options = new Options(args);
    String topic = options.get("topic", "infra.state.postgres.v1");
    String server = options.get("server", "http://127.0.0.1:7400"); // regent up, or the one with the role reducer
    Duration timeout = Duration.ofSeconds(Long.parseLong(options.get("timeout", "60"))); // to go on comparing, once the table is there
    boolean global = options.get("kind", "partitioned").equals("global");

    StreamsBuilder builder = new StreamsBuilder();
    Consumed<String, byte[]> consumed = Consumed.with(Serdes.String(), Serdes.ByteArray());
    Materialized<String, byte[], KeyValueStore<Bytes, byte[]>> materialized = Materialized.as(STORE);
    materialized.withKeySerde(Serdes.String()).withValueSerde(Serdes.ByteArray()).withCachingDisabled();
    if (global) {
      builder.globalTable(topic, consumed, materialized);
    } else {
      builder.table(topic, consumed, materialized);
    }
    Properties settings = settings(options);
    HttpClient http = HttpClient.newHttpClient();
    Tables tables;
    Map<Integer, String> served;
    try (KafkaStreams streams = new KafkaStreams(builder.build(settings), settings)) {
      CountDownLatch running = new CountDownLatch(1);
      streams.setStateListener((now, before) -> {
        if (now == KafkaStreams.State.RUNNING || now == KafkaStreams.State.ERROR) {
          running.countDown();
        }
      });
      streams.setUncaughtExceptionHandler(e -> {
        System.err.println("the table fails: " + e);
        return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
      });
      Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(10))));
      streams.start();
      running.await();
      Instant deadline = Instant.now().plus(timeout);
      // The table follows the topic: look until it is the state that is served.
      while (true) {
        served = Tables.served(http, server, topic);
        tables = copy(streams, served.size());
        if (tables.equal(served) || Instant.now().isAfter(deadline)) {
          break;
        }
        Thread.sleep(20);
      }
    }
    boolean same = tables.report(new Wire(options.get("registry", "http://127.0.0.1:8081")), served);
    System.exit(same ? 0 : 1);
  }

  private static Properties settings(Options options) {
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, options.required("application"));
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, options.get("brokers", "127.0.0.1:9092"));
    // It should outlive the process, else the table is read anew at each start.
    settings.put(StreamsConfig.STATE_DIR_CONFIG, options.get("state-dir", "streams-state"));
    // Else the table is also copied into a changelog of the application's own.
    settings.put(StreamsConfig.TOPOLOGY_OPTIMIZATION_CONFIG, StreamsConfig.REUSE_KTABLE_SOURCE_TOPICS);
    // All consumers of the application, those that restore included: Streams reads uncommitted records unless told otherwise.
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.ISOLATION_LEVEL_CONFIG), "read_committed");
    settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
    return settings;
  }

  /** Copies the table out of the store, by the partitions of the topic: that of a record is the hash of its cluster, not of its key. */
  private static Tables copy(KafkaStreams streams, int partitions) {
    Tables tables = new Tables(partitions);
    ReadOnlyKeyValueStore<String, byte[]> store = streams.store(StoreQueryParameters.fromNameAndType(STORE, QueryableStoreTypes.keyValueStore()));
    try (KeyValueIterator<String, byte[]> all = store.all()) {
      all.forEachRemaining(e -> {
        String[] parts = e.key.split("/", 3);
        byte[] cluster = (parts[0] + "/" + parts[1]).getBytes(StandardCharsets.UTF_8);
        tables.put(Utils.toPositive(Utils.murmur2(cluster)) % partitions, e.key, e.value);
      });
    }
    return tables;
  }
}
