"""Reads events of Regent as docs/formats-wire.md describes them, with the registry's schemas."""

from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext, SerializationError


class Unreadable(Exception):
    """Says that a record can never be read. Any other error is the registry's, and trying again can help."""


class Reader:
    """Turns records into events."""

    def __init__(self, registry):
        self._read = AvroDeserializer(registry)

    def event(self, topic, value):
        try:
            return self._read(value, SerializationContext(topic, MessageField.VALUE))
        except SchemaRegistryError as error:
            if error.http_status_code == 404:
                raise Unreadable(f"the registry does not have its schema: {error}") from error
            raise
        except (SerializationError, ValueError, EOFError, LookupError) as error:  # what the Avro library raises on broken bytes
            raise Unreadable(repr(error)) from error
