package io.regent.bench;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The Kafka Streams contender: exactly_once_v2, RocksDB without caching, one output for every input. It runs until SIGTERM.
 *
 * <p>Arguments: --broker A --group G --input T --output T --dir D [--set key=value]..., where --set gives any setting of
 * Kafka Streams.
 */
public final class Main {
    private static final String STORE = "totals";

    private Main() {}

    public static void main(String[] args) throws InterruptedException {
        Properties config = new Properties();
        String input = null;
        String output = null;
        for (int i = 0; i + 1 < args.length; i += 2) {
            String value = args[i + 1];
            switch (args[i]) {
                case "--broker" -> config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, value);
                case "--group" -> config.put(StreamsConfig.APPLICATION_ID_CONFIG, value);
                case "--dir" -> config.put(StreamsConfig.STATE_DIR_CONFIG, value);
                case "--input" -> input = value;
                case "--output" -> output = value;
                case "--set" -> {
                    int at = value.indexOf('=');
                    config.put(value.substring(0, at), value.substring(at + 1));
                }
                default -> throw new IllegalArgumentException("unknown argument " + args[i]);
            }
        }
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        config.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, "1");
        config.put("consumer.auto.offset.reset", "earliest");
        KafkaStreams streams = new KafkaStreams(topology(input, output), config);
        streams.setGlobalStateRestoreListener(new Restores());
        streams.setUncaughtExceptionHandler(e -> {
            e.printStackTrace();
            Runtime.getRuntime().halt(1);
            return StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        CountDownLatch closed = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close();
            closed.countDown();
        }));
        streams.start();
        closed.await();
    }

    private static Topology topology(String input, String output) {
        return new Topology()
            .addSource("in", new ByteArrayDeserializer(), new ByteArrayDeserializer(), input)
            .addProcessor("fold", Totals::new, "in")
            .addStateStore(
                Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(STORE), Serdes.ByteArray(), Serdes.ByteArray())
                    .withCachingDisabled()
                    .withLoggingEnabled(Map.of()),
                "fold")
            .addSink("out", output, new ByteArraySerializer(), new ByteArraySerializer(), "fold");
    }

    /** Folds the records of one task. */
    private static final class Totals implements Processor<byte[], byte[], byte[], byte[]> {
        private final Fold fold = new Fold();
        private ProcessorContext<byte[], byte[]> context;
        private KeyValueStore<byte[], byte[]> store;

        @Override
        public void init(ProcessorContext<byte[], byte[]> context) {
            this.context = context;
            this.store = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            try {
                byte[] state = fold.apply(store.get(record.key()), record.value());
                store.put(record.key(), state);
                context.forward(record.withValue(state));
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
    }

    /** Says on standard output, as a line of JSON for each partition, how long it was restored. */
    private static final class Restores implements StateRestoreListener {
        private final Map<TopicPartition, Long> began = new ConcurrentHashMap<>();

        @Override
        public void onRestoreStart(TopicPartition partition, String store, long from, long to) {
            began.put(partition, System.currentTimeMillis());
        }

        @Override
        public void onBatchRestored(TopicPartition partition, String store, long offset, long records) {}

        @Override
        public void onRestoreEnd(TopicPartition partition, String store, long records) {
            System.out.printf("{\"partition\":%d,\"records\":%d,\"began_ms\":%d,\"ended_ms\":%d}%n",
                partition.partition(), records, began.get(partition), System.currentTimeMillis());
            System.out.flush();
        }
    }
}
