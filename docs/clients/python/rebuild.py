#!/usr/bin/env python3
"""Makes the state anew from a compacted topic, in its own memory, and compares it with what a Regent server holds.

The comparison is of the latest value of each key, byte for byte, by the digest that GET /v1/digests serves. Ends with 1 when they differ.
"""

import argparse
import collections
import hashlib
import json
import struct
import sys
import time
import urllib.request

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient

from wire import Reader


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default="127.0.0.1:9092", help="broker to start from")
    parser.add_argument("--registry", default="http://127.0.0.1:8081", help="schema registry")
    parser.add_argument(
        "--server",
        default="http://127.0.0.1:7400",
        help="Regent server that holds the state: regent up, or the one with the role reducer",
    )
    parser.add_argument("--topic", default="infra.state.postgres.v1", help="state topic")
    parser.add_argument("--timeout", type=float, default=60, help="seconds to go on comparing while the state changes, once it was read")
    args = parser.parse_args()
    consumer = Consumer(
        {
            "bootstrap.servers": args.brokers,
            "group.id": "unused",  # the client asks for one; no partition is taken from a group here
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,  # tells when a partition is read to its end, whatever stands there
        }
    )
    try:
        partitions = list(consumer.list_topics(args.topic, timeout=30).topics[args.topic].partitions)
        if not partitions:
            raise RuntimeError(f"there is no topic {args.topic}")
        consumer.assign([TopicPartition(args.topic, p, OFFSET_BEGINNING) for p in partitions])
        state = {p: {} for p in partitions}
        ended = set()
        # The state may change between reading it here and asking for it there: then read on and compare again.
        deadline = None
        while True:
            read(consumer, state, ended)
            deadline = deadline or time.monotonic() + args.timeout
            served = digests(args.server, args.topic)
            if all(digest(state[p]) == served.get(p) for p in partitions):
                break
            if time.monotonic() > deadline:
                print("the state that was rebuilt is not the one that is served", file=sys.stderr)
                break
    finally:
        consumer.close()
    return report(state, served, Reader(SchemaRegistryClient({"url": args.registry})), args.topic)


def read(consumer, state, ended):
    """Takes what there is: until each partition has been at its end, and from then on until nothing has come for a moment."""
    while True:
        message = consumer.poll(0.2)
        if message is None:
            if len(ended) == len(state):
                return
        elif message.error() is None:
            if message.value() is None:  # a tombstone
                state[message.partition()].pop(message.key(), None)
            else:
                state[message.partition()][message.key()] = message.value()
        elif message.error().code() == KafkaError._PARTITION_EOF:
            ended.add(message.partition())
            if len(ended) == len(state):
                return
        elif not message.error().retriable():
            raise KafkaException(message.error())


def digest(entries):
    """Returns the SHA-256 over each key and value in key order, each after its length as 4 bytes, big endian."""
    total = hashlib.sha256()
    for key in sorted(entries):
        for part in (key, entries[key]):
            total.update(struct.pack(">I", len(part)))
            total.update(part)
    return total.hexdigest()


def digests(server, topic):
    """Asks a server for the digest of each partition of the table whose changelog the topic is."""
    with urllib.request.urlopen(f"{server}/v1/digests", timeout=30) as answer:
        found = {d["partition"]: d["sum"] for d in json.load(answer)["digests"] if d.get("changelog") == topic}
    if not found:
        raise RuntimeError(f"{server} holds no table of {topic}: ask the server with the role that writes it")
    return found


def report(state, served, reader, topic):
    """Prints a line for each partition, and reads every value: the state is not only there, it can be understood."""
    same = True
    for partition, entries in sorted(state.items()):
        types = collections.Counter(reader.event(topic, v)["type"] for v in entries.values())
        total = digest(entries)
        equal = total == served.get(partition)
        same = same and equal
        line = {"partition": partition, "keys": len(entries), "types": types, "sum": total, "served": served.get(partition), "equal": equal}
        print(json.dumps(line))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
