#!/usr/bin/env python3
"""Follows a state topic as a member of a consumer group and prints each change as a line of JSON.

Started again with the same group, it goes on behind the last change that it has printed; after a crash it may print a few again (at
least once).
"""

import argparse
import datetime
import json
import signal
import sys

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.schema_registry import SchemaRegistryClient

from wire import Reader, Unreadable


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default="127.0.0.1:9092", help="broker to start from")
    parser.add_argument("--registry", default="http://127.0.0.1:8081", help="schema registry")
    parser.add_argument("--topic", default="infra.state.postgres.v1", help="state topic")
    parser.add_argument("--group", required=True, help="consumer group")
    args = parser.parse_args()

    # Credentials: "basic.auth.user.info" here, "sasl.*" and "security.protocol" below.
    reader = Reader(SchemaRegistryClient({"url": args.registry}))
    consumer = Consumer(
        {
            "bootstrap.servers": args.brokers,
            "group.id": args.group,
            "auto.offset.reset": "earliest",  # a new group begins with the whole state
            "isolation.level": "read_committed",  # the reducer writes in transactions, and some are aborted
            "enable.auto.offset.store": False,  # commits, now and then and at the end, only what was stored below
        }
    )
    running = True

    def stop(*_):
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    consumer.subscribe([args.topic])
    try:
        while running:
            message = consumer.poll(0.5)
            if message is None:
                continue
            if message.error():
                if message.error().retriable():
                    print(f"read {args.topic}: {message.error()}", file=sys.stderr)  # the client tries again
                    continue
                raise KafkaException(message.error())
            take(reader, message)
            consumer.store_offsets(message)
    finally:
        consumer.close()  # commits what was stored, and tells the group at once


def take(reader, message):
    """Is where your program does its work. It must bear to see a record twice."""
    line = {
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "key": message.key().decode(),
    }
    if message.value() is None:
        line["deleted"] = True
    else:
        try:
            line["event"] = reader.event(message.topic(), message.value())
        except Unreadable as error:  # it will not become better by reading it again
            print(f"skip {message.topic()}/{message.partition()}@{message.offset()}: {error}", file=sys.stderr)
            return
    print(json.dumps(line, default=plain), flush=True)


def plain(value):
    """Says how what JSON does not know is written."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    raise TypeError(f"{type(value)} has no place in JSON")


if __name__ == "__main__":
    main()
