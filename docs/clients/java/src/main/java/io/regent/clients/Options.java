package io.regent.clients;

import java.util.HashMap;
import java.util.Map;

/** The options of a command line: {@code --name value}, or {@code --name} alone. */
final class Options {
  private final Map<String, String> values = new HashMap<>();

  Options(String[] args) {
    for (int i = 0; i < args.length; i++) {
      if (!args[i].startsWith("--")) {
        throw new IllegalArgumentException(args[i] + ": expected an option, --name value");
      }
      boolean alone = i + 1 == args.length || args[i + 1].startsWith("--");
      values.put(args[i].substring(2), alone ? "" : args[++i]);
    }
  }

  String get(String name, String otherwise) {
    return values.getOrDefault(name, otherwise);
  }

  String required(String name) {
    String value = values.get(name);
    if (value == null || value.isEmpty()) {
      throw new IllegalArgumentException("--" + name + " is required");
    }
    return value;
  }

  boolean has(String name) {
    return values.containsKey(name);
  }
}
