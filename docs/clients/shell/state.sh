#!/usr/bin/env bash
# Follows a state topic as a member of a consumer group and prints each change as a line of JSON. Started again with the same group, it goes on behind
# what it has taken; kcat counts a record as taken when it has written it into the pipe.
#
#   state.sh --group my-program [--topic infra.state.postgres.v1] [--brokers 127.0.0.1:9092] [--registry http://127.0.0.1:8081]
. "$(dirname "$(readlink -f "$0")")/wire.sh"
topic=infra.state.postgres.v1 group=
while [ $# -gt 0 ]; do
  case $1 in
    --brokers) brokers=$2 ;;
    --registry) registry=$2 ;;
    --topic) topic=$2 ;;
    --group) group=$2 ;;
    *) fail "$1: unknown option" 2 ;;
  esac
  shift 2
done
[ -n "$group" ] || fail "--group is required" 2

# Is where your program does its work. It must bear to see a record twice.
take() {
  local partition offset key value event
  while read -r partition offset key value; do
    if [ "$value" = - ]; then
      printf '{"topic":"%s","partition":%d,"offset":%d,"key":"%s","deleted":true}\n' "$topic" "$partition" "$offset" "$key"
    elif event=$(decode "$value" 2>"$work/why"); then
      printf '{"topic":"%s","partition":%d,"offset":%d,"key":"%s","event":%s}\n' "$topic" "$partition" "$offset" "$key" "$event"
    elif [ $? -eq "$unreadable" ]; then # it will not become better by reading it again
      echo "skip $topic/$partition@$offset: $(cat "$work/why")" >&2
    else
      kill "$kcat"
      fail "$(cat "$work/why")"
    fi
  done
}

consume -G "$group" -X auto.offset.reset=earliest "$topic"
records | take &
reader=$!
stopping=
trap 'stopping=1; kill "$kcat" 2>/dev/null || true' INT TERM
# kcat leaves the group in order when it is told to end. `wait` returns early when a signal comes.
while kill -0 "$kcat" 2>/dev/null; do wait "$kcat" || true; done
while kill -0 "$reader" 2>/dev/null; do wait "$reader" || true; done
[ -n "$stopping" ] || fail "$(cat "$work/complaints")"
