package io.regent.bench;

import io.regent.v1.EnvelopeHeader;
import io.regent.v1.QueryMetrics;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.avro.specific.SpecificDatumReader;
import org.apache.avro.specific.SpecificDatumWriter;
import org.apache.avro.util.Utf8;

/**
 * The bench fold: running totals per key, the same bytes as the fold in bench/workload. It reads and writes as fast as Avro allows here: generated
 * classes with their own coders, strings left as bytes, every object used again. One instance serves one task.
 */
final class Fold {
    private static final Utf8 SOURCE = new Utf8("reducer.bench/0");
    private static final Utf8 EMPTY = new Utf8("");

    /** The wire format's zero byte and the id of the schema. */
    private static final int PREFIX = 5;

    private final SpecificDatumReader<EnvelopeHeader> headerReader = new SpecificDatumReader<>(EnvelopeHeader.class);
    private final SpecificDatumReader<QueryMetrics> payloadReader = new SpecificDatumReader<>(QueryMetrics.class);
    private final SpecificDatumWriter<EnvelopeHeader> headerWriter = new SpecificDatumWriter<>(EnvelopeHeader.class);
    private final SpecificDatumWriter<QueryMetrics> payloadWriter = new SpecificDatumWriter<>(QueryMetrics.class);
    private final ByteArrayOutputStream buffer = new ByteArrayOutputStream(512);
    private BinaryDecoder decoder;
    private BinaryEncoder encoder;
    private final EnvelopeHeader header = new EnvelopeHeader();
    private final EnvelopeHeader stateHeader = new EnvelopeHeader();
    private final QueryMetrics totals = new QueryMetrics();
    private final QueryMetrics before = new QueryMetrics();

    /** Returns the state that follows from an input and the state before it, which is null for a new key. */
    byte[] apply(byte[] state, byte[] input) throws IOException {
        read(input, header, totals);
        long sequence = 1;
        if (state != null) {
            read(state, stateHeader, before);
            sequence = stateHeader.sequence + 1;
            add();
        }
        header.source = SOURCE;
        header.sequence = sequence;
        header.boot_id = EMPTY;
        return write(input);
    }

    private void read(byte[] value, EnvelopeHeader header, QueryMetrics payload) throws IOException {
        if (value.length < PREFIX || value[0] != 0) {
            throw new IOException("not in the schema registry's wire format");
        }
        decoder = DecoderFactory.get().binaryDecoder(value, PREFIX, value.length - PREFIX, decoder);
        headerReader.read(header, decoder);
        int branch = decoder.readIndex();
        if (branch != 0) {
            throw new IOException("payload branch " + branch + ", expected 0");
        }
        payloadReader.read(payload, decoder);
    }

    private void add() {
        totals.commits += before.commits;
        totals.rollbacks += before.rollbacks;
        totals.blocks_hit += before.blocks_hit;
        totals.blocks_read += before.blocks_read;
        totals.rows_returned += before.rows_returned;
        totals.rows_inserted += before.rows_inserted;
        totals.rows_updated += before.rows_updated;
        totals.rows_deleted += before.rows_deleted;
        totals.deadlocks += before.deadlocks;
        totals.temp_bytes += before.temp_bytes;
        totals.wal_bytes += before.wal_bytes;
        totals.checksum_failures += before.checksum_failures;
    }

    private byte[] write(byte[] input) throws IOException {
        buffer.reset();
        buffer.write(input, 0, PREFIX); // both topics have the same schema
        encoder = EncoderFactory.get().directBinaryEncoder(buffer, encoder);
        headerWriter.write(header, encoder);
        encoder.writeIndex(0);
        payloadWriter.write(totals, encoder);
        encoder.flush();
        return buffer.toByteArray();
    }
}
