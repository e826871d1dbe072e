#!/usr/bin/env python3
"""Has Regent do something, and waits for what becomes of it.

    command.py --cluster postgres/orders --type CheckHealth --payload '{"timeout_ms": 2000}' --reason 'nightly check'

Ends with 0 when the command is done, 1 when it failed, 3 when it was rejected, 4 when there was no outcome in time.
"""

import argparse
import datetime
import json
import os
import sys
import time
import uuid

from confluent_kafka import Consumer, IsolationLevel, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from wire import Reader, Unreadable

DONE, FAILED, REJECTED, TIMED_OUT = 0, 1, 3, 4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default="127.0.0.1:9092", help="broker to start from")
    parser.add_argument("--registry", default="http://127.0.0.1:8081", help="schema registry")
    parser.add_argument("--cluster", required=True, help="cluster id, such as postgres/orders")
    parser.add_argument("--type", required=True, help="record name of the command, such as CheckHealth")
    parser.add_argument("--payload", default="{}", type=json.loads, help="fields of the command besides meta, JSON")
    parser.add_argument(
        "--id", type=uuid.UUID, help="id of the command; to repeat a command whose delivery is in doubt, give its id again"
    )
    parser.add_argument("--requested-by", default="program/example", help="who asks")
    parser.add_argument("--reason", default="", help="why, for the audit trail")
    parser.add_argument("--dry-run", action="store_true", help="only validate and say what would be done")
    parser.add_argument(
        "--expires-in", type=float, default=300, help="seconds; the command is rejected if it is not taken up within this time"
    )
    parser.add_argument("--timeout", type=float, default=300, help="seconds to wait for the outcome")
    args = parser.parse_args()
    args.id = str(args.id or uuid7())
    deadline = time.monotonic() + args.timeout
    kind = args.cluster.split("/")[0]
    registry = SchemaRegistryClient({"url": args.registry})
    # Before the command is sent, so that no outcome is missed.
    outcomes = listen(args.brokers, f"infra.outcomes.{kind}.v1")
    try:
        send(args, registry, f"infra.commands.{kind}.v1", deadline)
        return wait(args, registry, outcomes, deadline)
    except TimeoutError as error:
        print(error, file=sys.stderr)
        return TIMED_OUT
    finally:
        outcomes.close()


def listen(brokers, topic):
    """Returns a consumer that stands at the end of a topic. It commits nothing: each waiting program sees all outcomes."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "unused",  # the client asks for one; no partition is taken from a group here
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    if not partitions:
        raise RuntimeError(f"there is no topic {topic}: is the kind of the cluster right?")
    admin = AdminClient({"bootstrap.servers": brokers})
    ends = admin.list_offsets(
        {TopicPartition(topic, p): OffsetSpec.latest() for p in partitions},
        isolation_level=IsolationLevel.READ_COMMITTED,
        request_timeout=30,
    )
    consumer.assign([TopicPartition(at.topic, at.partition, end.result().offset) for at, end in ends.items()])
    return consumer


def send(args, registry, topic, deadline):
    """Writes the command and returns when all replicas in sync have it."""
    now = datetime.datetime.now(datetime.timezone.utc)
    meta = {
        "requested_by": args.requested_by,
        "reason": args.reason,
        "expires_at": now + datetime.timedelta(seconds=args.expires_in),
        "dry_run": args.dry_run,
    }
    event = {
        "id": args.id,
        "type": args.type,
        "source": "program/example",
        "cluster": args.cluster,
        "resource": args.cluster,
        "occurred_at": now,
        "correlation_id": args.id,
        "causation_id": "",
        "sequence": int(now.timestamp() * 1_000_000),
        "boot_id": args.id,
        "payload": (f"io.regent.v1.{args.type}", {**args.payload, "meta": meta}),  # the branch of the union, and its value
    }
    write = AvroSerializer(
        registry,
        conf={
            "auto.register.schemas": False,  # schemas come from topics.yaml
            "use.latest.version": True,
            "validate.strict.allow.default": True,  # a misspelled field is an error, not a default
        },
    )
    value = write(event, SerializationContext(topic, MessageField.VALUE))
    producer = Producer(
        {
            "bootstrap.servers": args.brokers,
            "enable.idempotence": True,  # and so acks=all; what has to be repeated is not written twice
            "partitioner": "murmur2_random",  # as Kafka's own clients do it; this client's default is another hash
            "delivery.timeout.ms": 30000,
        }
    )
    reports = []
    producer.produce(topic, key=args.cluster, value=value, on_delivery=lambda error, message: reports.append((error, message)))
    producer.flush(max(0.0, deadline - time.monotonic()))
    again = f"it may still be carried out; to be sure, send it again with --id {args.id}: it is carried out once"
    if not reports:
        raise TimeoutError(f"send {args.id}: not acknowledged in time; {again}")
    error, message = reports[0]
    if error:
        raise RuntimeError(f"send {args.id}: {error}; {again}")
    tell({"sent": args.id, "topic": message.topic(), "partition": message.partition(), "offset": message.offset()})


def wait(args, registry, outcomes, deadline):
    """Reads outcomes until the command has ended."""
    reader = Reader(registry)
    while time.monotonic() < deadline:
        message = outcomes.poll(0.5)
        if message is None or (message.error() and message.error().retriable()):
            continue
        if message.error():
            raise KafkaException(message.error())
        try:
            event = reader.event(message.topic(), message.value())
        except Unreadable as error:
            print(f"skip {message.topic()}/{message.partition()}@{message.offset()}: {error}", file=sys.stderr)
            continue
        outcome = event["payload"]
        if outcome["command_id"] != args.id:
            continue
        tell({"outcome": event["type"], "payload": outcome})
        if event["type"] == "CommandCompleted" or (event["type"] == "CommandAccepted" and args.dry_run):
            return DONE
        if event["type"] == "CommandRejected":
            print(f"rejected ({outcome['reason']}): {outcome['message']}", file=sys.stderr)
            return REJECTED
        if event["type"] == "CommandFailed":
            print(f"failed: {outcome['message']}", file=sys.stderr)
            return FAILED
    raise TimeoutError(f"no outcome of {args.id} within {args.timeout:g} s; it may still be carried out")


def uuid7():
    """Returns a UUID that begins with the time. From Python 3.14 on, uuid.uuid7 does the same."""
    value = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    return uuid.UUID(int=value & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62)


def tell(line):
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
