#!/usr/bin/env bash
# Makes the state anew from a compacted topic and compares it with what a Regent server holds: the latest value of each key, byte for byte, by the digest
# that GET /v1/digests serves. Ends with 1 when they differ.
#
#   rebuild.sh [--server http://127.0.0.1:7400] [--topic infra.state.postgres.v1] [--timeout 60] [--brokers …] [--registry …]
#
# --timeout: seconds to go on comparing while the state changes, once it was read.
. "$(dirname "$(readlink -f "$0")")/wire.sh"
topic=infra.state.postgres.v1 server=http://127.0.0.1:7400 timeout=60
while [ $# -gt 0 ]; do
  case $1 in
    --brokers) brokers=$2 ;;
    --registry) registry=$2 ;;
    --topic) topic=$2 ;;
    --server) server=$2 ;; # regent up, or the one with the role reducer
    --timeout) timeout=$2 ;;
    *) fail "$1: unknown option" 2 ;;
  esac
  shift 2
done
deadline=
partitions=$(kafka -L -J -t "$topic" | jq '.topics[0].partitions | length')
[ "$partitions" -gt 0 ] || fail "there is no topic $topic"

# Prints the latest record of each key, by partition and key, as partition, key in hexadecimal, value. A record without a value deletes its key.
latest() {
  rm -f "$work/pipe"
  consume -C -t "$topic" -o beginning -e
  records | perl -ane '$F[3] eq "-" ? delete $latest{"$F[0] " . unpack("H*", $F[2])} : ($latest{"$F[0] " . unpack("H*", $F[2])} = $F[3]);
    END { print "$_ $latest{$_}\n" for sort keys %latest }'
  wait "$kcat" || fail "read $topic: $(cat "$work/complaints")"
}

# The SHA-256 over each key and value of a partition, each after its length as 4 bytes, big endian.
digest() {
  perl -ane 'BEGIN { $partition = shift @ARGV } print pack("N/a* N/a*", pack("H*", $F[1]), pack("H*", $F[2])) if $F[0] == $partition' "$1" "$work/latest" |
    sha256sum | cut -d ' ' -f 1
}

# The state may change between reading it here and asking for it there: then read and compare again.
while :; do
  latest >"$work/latest"
  deadline=${deadline:-$((SECONDS + timeout))}
  curl -sS --fail --max-time 30 "$server/v1/digests" >"$work/served" || fail "ask $server for its digests"
  jq -e --arg topic "$topic" 'any(.digests[]; .changelog == $topic)' "$work/served" >/dev/null ||
    fail "$server holds no table of $topic: ask the server with the role that writes it"
  same=true
  : >"$work/report"
  for ((p = 0; p < partitions; p++)); do
    sum=$(digest "$p")
    served=$(jq -r --arg topic "$topic" --argjson p "$p" '.digests[] | select(.changelog == $topic and .partition == $p) | .sum' "$work/served")
    [ "$sum" = "$served" ] || same=false
    echo "$p $sum $served" >>"$work/report"
  done
  [ "$same" = false ] && [ "$SECONDS" -lt "$deadline" ] || break
done

# A line for each partition. Every value is read: the state is not only there, it can be understood.
while read -r partition sum served; do
  types=$(while read -r p _ value; do [ "$p" != "$partition" ] || decode "$value" | jq .type; done <"$work/latest" |
    jq -sc 'group_by(.) | map({key: .[0], value: length}) | from_entries')
  jq -nc --argjson partition "$partition" --argjson types "$types" --arg sum "$sum" --arg served "$served" \
    '{partition: $partition, keys: ($types | add // 0), types: $types, sum: $sum, served: $served, equal: ($sum == $served)}'
done <"$work/report"
[ "$same" = true ] || fail "the state that was rebuilt is not the one that is served"
