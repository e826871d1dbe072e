package io.regent.clients;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.net.http.HttpClient;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.Map;
import java.util.TreeMap;

/** The latest value of each key, by partition, and how it compares with what a Regent server holds. */
final class Tables {
  private final Map<Integer, TreeMap<byte[], byte[]>> partitions = new TreeMap<>();

  Tables(int count) {
    for (int p = 0; p < count; p++) {
      partitions.put(p, new TreeMap<>(Arrays::compareUnsigned));
    }
  }

  /** Takes a record in. One without a value deletes its key. */
  void put(int partition, String key, byte[] value) {
    byte[] bytes = key.getBytes(StandardCharsets.UTF_8);
    if (value == null) {
      partitions.get(partition).remove(bytes);
    } else {
      partitions.get(partition).put(bytes, value);
    }
  }

  /** The SHA-256 over each key and value in key order, each after its length as 4 bytes, big endian. */
  private static String digest(Map<byte[], byte[]> entries) {
    try {
      MessageDigest sum = MessageDigest.getInstance("SHA-256");
      entries.forEach(
          (key, value) -> {
            for (byte[] part : new byte[][] {key, value}) {
              sum.update(ByteBuffer.allocate(4).putInt(part.length).array());
              sum.update(part);
            }
          });
      return HexFormat.of().formatHex(sum.digest());
    } catch (NoSuchAlgorithmException e) {
      throw new AssertionError(e); // every Java has it
    }
  }

  boolean equal(Map<Integer, String> served) {
    return partitions.entrySet().stream().allMatch(p -> digest(p.getValue()).equals(served.get(p.getKey())));
  }

  /** Prints a line for each partition, and reads every value: the state is not only there, it can be understood. */
  boolean report(Wire wire, Map<Integer, String> served) throws Exception {
    for (Map.Entry<Integer, TreeMap<byte[], byte[]>> partition : partitions.entrySet()) {
      String sum = digest(partition.getValue());
      ObjectNode line = Wire.JSON.createObjectNode().put("partition", partition.getKey()).put("keys", partition.getValue().size());
      ObjectNode types = line.putObject("types");
      for (byte[] value : partition.getValue().values()) {
        String type = wire.decode(value).get("type").toString();
        types.put(type, types.path(type).asInt() + 1);
      }
      line.put("sum", sum).put("served", served.get(partition.getKey())).put("equal", sum.equals(served.get(partition.getKey())));
      System.out.println(line);
    }
    if (!equal(served)) {
      System.err.println("the state that was rebuilt is not the one that is served");
      return false;
    }
    return true;
  }

  /** Asks a server for the digest of each partition of the table whose changelog the topic is. */
  static Map<Integer, String> served(HttpClient http, String server, String topic) throws IOException {
    JsonNode answer = Wire.get(http, server + "/v1/digests");
    Map<Integer, String> sums = new TreeMap<>();
    if (answer != null) {
      for (JsonNode d : answer.path("digests")) {
        if (d.path("changelog").asText().equals(topic)) {
          sums.put(d.get("partition").asInt(), d.get("sum").asText());
        }
      }
    }
    if (sums.isEmpty()) {
      throw new IOException(server + " holds no table of " + topic + ": ask the server with the role that writes it");
    }
    return sums;
  }
}
