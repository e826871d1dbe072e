#!/usr/bin/env bash
# Has Regent do something, and waits for what becomes of it. Ends with 0 when the command is done, 1 when it failed, 3 when it was rejected, 4 when there
# was no outcome in time.
#
#   command.sh --cluster postgres/orders --type CheckHealth --payload '{"timeout_ms": 2000}' --reason 'nightly check'
#
# Further options: --brokers, --registry, --id (to repeat a command whose delivery is in doubt), --requested-by, --dry-run, --expires-in and --timeout in seconds.
. "$(dirname "$(readlink -f "$0")")/wire.sh"
cluster='' type='' payload='{}' id='' by=program/example reason='' dry=false expires=300 timeout=300
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=true && shift && continue ;;
    --brokers) brokers=$2 ;;
    --registry) registry=$2 ;;
    --cluster) cluster=$2 ;;
    --type) type=$2 ;;
    --payload) payload=$2 ;;
    --id) id=$2 ;;
    --requested-by) by=$2 ;;
    --reason) reason=$2 ;;
    --expires-in) expires=$2 ;;
    --timeout) timeout=$2 ;;
    *) fail "$1: unknown option" 2 ;;
  esac
  shift 2
done
[ -n "$cluster" ] && [ -n "$type" ] || fail "--cluster and --type are required" 2
deadline=$((SECONDS + timeout))
kind=${cluster%%/*}
commands=infra.commands.$kind.v1 outcomes=infra.outcomes.$kind.v1
if [ -z "$id" ]; then # a UUID that begins with the time
  random=$(xxd -p -l 10 /dev/urandom)
  time=$(printf '%012x' "$(date +%s%3N)")
  id=${time:0:8}-${time:8:4}-7${random:0:3}-$(printf '%x' $((8 + 0x${random:3:1} % 4)))${random:4:3}-${random:7:12}
fi

# The event, with the newest schema of the topic. Nothing is registered: schemas come from topics.yaml.
ask "/subjects/$commands-value/versions/latest" >"$work/latest" || fail "the registry has no schema of $commands"
jq -r .schema "$work/latest" >"$work/schema"
now=$(date +%s%6N)
{
  printf '00%08x' "$(jq .id "$work/latest")"
  jq -n -r -L "$here" --slurpfile schema "$work/schema" --arg id "$id" --arg type "$type" --arg cluster "$cluster" --argjson now "$now" --argjson payload "$payload" \
    --arg by "$by" --arg reason "$reason" --argjson expires "$((now + expires * 1000000))" --argjson dry "$dry" 'import "avro" as avro;
    {id: $id, type: $type, source: "program/example", cluster: $cluster, resource: $cluster, occurred_at: $now, correlation_id: $id, causation_id: "", sequence: $now, boot_id: $id,
     payload: {($type): ($payload + {meta: {requested_by: $by, reason: $reason, expires_at: $expires, dry_run: $dry}})}} | avro::encode($schema[0])'
} | xxd -r -p >"$work/command" || fail "write an event of $commands: it is not what the schema asks for"

# Stand at the end of the outcomes before the command is sent: kcat says when it has reached the end of a partition.
partitions=$(kafka -L -J -t "$outcomes" | jq '.topics[0].partitions | length')
[ "$partitions" -gt 0 ] || fail "there is no topic $outcomes: is the kind of the cluster right?"
mkfifo "$work/pipe"
kcat -b "$brokers" -C -t "$outcomes" -o end -u -f '%p %o %K %S\n%k%s' -X isolation.level=read_committed >"$work/pipe" 2>"$work/complaints" &
kcat=$!
trap 'kill "$kcat" 2>/dev/null || true; rm -rf "$work"' EXIT
exec 3< <(records)
until [ "$(grep -c 'Reached end of topic' "$work/complaints")" -ge "$partitions" ]; do
  kill -0 "$kcat" 2>/dev/null || fail "$(cat "$work/complaints")"
  [ "$SECONDS" -lt "$deadline" ] || fail "find the end of $outcomes: not in time" 4
  sleep 0.05
done

# The key decides the partition, by the hash of Kafka's own clients. An idempotent producer: what has to be repeated is not written twice.
kafka -P -t "$commands" -k "$cluster" -X topic.partitioner=murmur2_random -X enable.idempotence=true -X message.timeout.ms=30000 "$work/command" 2>"$work/complaints-sent" ||
  fail "send $id: $(cat "$work/complaints-sent"); it may still be carried out; to be sure, send it again with its --id: it is carried out once"
jq -nc --arg id "$id" --arg topic "$commands" '{sent: $id, topic: $topic}'

while left=$((deadline - SECONDS)) && [ "$left" -gt 0 ] && read -r -t "$left" -u 3 _ _ _ value; do
  event=$(decode "$value") || { [ $? -eq "$unreadable" ] && continue || fail "read an outcome of $outcomes"; }
  [ "$(jq -r .payload.command_id <<<"$event")" = "$id" ] || continue
  jq -c '{outcome: .type, payload}' <<<"$event"
  case $(jq -r .type <<<"$event") in
    CommandAccepted) [ "$dry" = false ] || exit 0 ;;
    CommandCompleted) exit 0 ;;
    CommandRejected) fail "$(jq -r '"rejected (\(.payload.reason)): \(.payload.message)"' <<<"$event")" 3 ;;
    CommandFailed) fail "$(jq -r '"failed: \(.payload.message)"' <<<"$event")" ;;
  esac
done
kill -0 "$kcat" 2>/dev/null || fail "wait for the outcome: $(cat "$work/complaints")"
fail "no outcome of $id within $timeout s; it may still be carried out" 4
