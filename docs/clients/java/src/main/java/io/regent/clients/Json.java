package io.regent.clients;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;

/** Turns JSON into Avro by a schema. Unlike Avro's own decoder it wants no tag around a union's value, and takes defaults. */
final class Json {
  private Json() {}

  static GenericRecord record(Schema schema, JsonNode json) {
    for (Iterator<String> names = json.fieldNames(); names.hasNext(); ) {
      String name = names.next();
      if (schema.getField(name) == null) {
        throw new IllegalArgumentException(schema.getName() + " has no field " + name);
      }
    }
    GenericRecord record = new GenericData.Record(schema);
    for (Schema.Field field : schema.getFields()) {
      JsonNode value = json.get(field.name());
      if (value != null) {
        record.put(field.pos(), value(field.schema(), value, schema.getName() + "." + field.name()));
      } else if (field.hasDefaultValue()) {
        record.put(field.pos(), GenericData.get().getDefaultValue(field));
      } else {
        throw new IllegalArgumentException(schema.getName() + "." + field.name() + " is missing");
      }
    }
    return record;
  }

  private static Object value(Schema schema, JsonNode json, String where) {
    switch (schema.getType()) {
      case RECORD:
        return record(schema, json);
      case UNION: // of null and one other, as all unions in commands are
        Schema other = schema.getTypes().stream().filter(s -> s.getType() != Schema.Type.NULL).findFirst().orElseThrow();
        return json.isNull() ? null : value(other, json, where);
      case ARRAY:
        List<Object> items = new ArrayList<>();
        json.forEach(item -> items.add(value(schema.getElementType(), item, where)));
        return items;
      case MAP:
        Map<String, Object> entries = new HashMap<>();
        json.fields().forEachRemaining(e -> entries.put(e.getKey(), value(schema.getValueType(), e.getValue(), where)));
        return entries;
      case ENUM:
        if (!schema.hasEnumSymbol(json.asText())) {
          throw new IllegalArgumentException(where + ": expected one of " + schema.getEnumSymbols() + ", got " + json);
        }
        return new GenericData.EnumSymbol(schema, json.asText());
      default:
        return scalar(schema, json, where);
    }
  }

  private static Object scalar(Schema schema, JsonNode json, String where) {
    switch (schema.getType()) {
      case STRING:
        if (json.isTextual()) return json.asText();
        break;
      case BOOLEAN:
        if (json.isBoolean()) return json.asBoolean();
        break;
      case INT:
        if (json.canConvertToExactIntegral() && json.canConvertToInt()) return json.asInt();
        break;
      case LONG:
        if (json.canConvertToExactIntegral() && json.canConvertToLong()) return json.asLong();
        break;
      case DOUBLE:
        if (json.isNumber()) return json.asDouble();
        break;
      case FLOAT:
        if (json.isNumber()) return (float) json.asDouble();
        break;
      default:
    }
    throw new IllegalArgumentException(where + ": expected a " + schema.getType().getName() + ", got " + json);
  }
}
