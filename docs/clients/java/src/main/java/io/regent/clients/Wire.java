package io.regent.clients;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;

/**
 * Reads and writes events of Regent as docs/formats-wire.md describes them: Confluent's framing, schemas from a registry, Avro. All of the
 * registry that this needs are two GET requests.
 */
final class Wire {
  /** A record can never be read. Any other exception is the registry's, and trying again can help. */
  static final class Unreadable extends Exception {
    Unreadable(String message, Throwable cause) {
      super(message, cause);
    }
  }

  static final ObjectMapper JSON = new ObjectMapper();

  private static final int HEADER = 5; // a zero byte and the schema's id
  private final HttpClient http = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).build();
  private final String registry;
  private final Map<Integer, Schema> schemas = new ConcurrentHashMap<>();

  Wire(String registry) {
    this.registry = registry;
  }

  GenericRecord decode(byte[] value) throws Unreadable, IOException {
    if (value.length < HEADER || value[0] != 0) {
      throw new Unreadable("it does not begin with Confluent's framing", null);
    }
    int id = ByteBuffer.wrap(value, 1, 4).getInt();
    Schema schema = schemas.get(id);
    if (schema == null) {
      JsonNode answer = get("/schemas/ids/" + id);
      if (answer == null) {
        throw new Unreadable("the registry has no schema " + id, null);
      }
      schema = new Schema.Parser().parse(answer.get("schema").asText());
      schemas.put(id, schema);
    }
    try {
      BinaryDecoder body = DecoderFactory.get().binaryDecoder(value, HEADER, value.length - HEADER, null);
      GenericRecord event = new GenericDatumReader<GenericRecord>(schema).read(null, body);
      if (!body.isEnd()) {
        throw new Unreadable("bytes are left over", null);
      }
      return event;
    } catch (IOException | RuntimeException e) { // what Avro throws on broken bytes
      throw new Unreadable("schema " + id + ": " + e, e);
    }
  }

  /** The schema of a topic's events, and the id that goes before each. */
  record Writer(int id, Schema schema) {
    byte[] encode(GenericRecord event) throws IOException {
      ByteArrayOutputStream out = new ByteArrayOutputStream();
      out.write(0);
      out.write(ByteBuffer.allocate(4).putInt(id).array());
      BinaryEncoder encoder = EncoderFactory.get().binaryEncoder(out, null);
      new GenericDatumWriter<GenericRecord>(schema).write(event, encoder);
      encoder.flush();
      return out.toByteArray();
    }
  }

  /** The newest schema of a topic. Nothing is registered: schemas come from topics.yaml. */
  Writer writer(String topic) throws IOException {
    JsonNode answer = get("/subjects/" + topic + "-value/versions/latest");
    if (answer == null) {
      throw new IOException("the registry has no schema of " + topic);
    }
    return new Writer(answer.get("id").asInt(), new Schema.Parser().parse(answer.get("schema").asText()));
  }

  /** Returns the answer of the registry, null where there is no such thing. */
  private JsonNode get(String path) throws IOException {
    return get(http, registry + path);
  }

  static JsonNode get(HttpClient http, String url) throws IOException {
    try {
      HttpRequest request = HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofSeconds(30)).build(); // credentials: a header Authorization
      HttpResponse<byte[]> response = http.send(request, HttpResponse.BodyHandlers.ofByteArray());
      if (response.statusCode() == 404) {
        return null;
      }
      if (response.statusCode() != 200) {
        throw new IOException("ask " + url + ": expected 200, got " + response.statusCode());
      }
      return JSON.readTree(response.body());
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IOException("ask " + url + ": interrupted", e);
    }
  }
}
