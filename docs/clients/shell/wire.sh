# What the programs share; to be sourced. It needs bash, kcat, curl, jq, perl (for what is binary) and xxd.
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
brokers=127.0.0.1:9092 registry=http://127.0.0.1:8081
work=$(mktemp -d)
kcat=
trap 'rm -rf "$work"' EXIT

fail() {
  echo "$(basename "$0"): $1" >&2
  exit "${2:-1}"
}

for tool in kcat curl jq perl xxd; do
  command -v "$tool" >/dev/null || fail "no $tool in PATH, for example: apt-get install -y kcat curl jq perl xxd"
done

# Talks to the brokers. Credentials and TLS: further settings, -X sasl.… and -X security.protocol=…, or a file, -F FILE.
kafka() { kcat -q -b "$brokers" "$@"; }

# Prints the answer of the registry; returns 1 where it has no such thing. Credentials: curl's --user or --netrc.
ask() {
  local status
  status=$(curl -sS --max-time 30 -o "$work/answer" -w '%{http_code}' "$registry$1") || fail "ask the registry at $registry: no answer"
  case $status in
    200) cat "$work/answer" ;;
    404) return 1 ;;
    *) fail "ask the registry for $1: expected 200, got $status: $(cat "$work/answer")" ;;
  esac
}

# Starts a consumer in the background, which writes its records into a pipe. Arguments: those of kcat.
consume() {
  mkfifo "$work/pipe"
  kcat -q -u -b "$brokers" -f '%p %o %K %S\n%k%s' -X isolation.level=read_committed "$@" >"$work/pipe" 2>"$work/complaints" &
  kcat=$!
}

# Prints what the consumer reads, a line for each record: partition, offset, key, value. The value is in hexadecimal, or - for a tombstone. Keys of Regent hold no
# white space.
records() {
  perl -e '$| = 1; binmode STDIN;
    while (my $sizes = <STDIN>) {
      my ($partition, $offset, $keys, $values) = split " ", $sizes;
      my ($key, $value) = ("", "");
      read(STDIN, $key, $keys) == $keys or exit 1 if $keys > 0;
      read(STDIN, $value, $values) == $values or exit 1 if $values > 0;
      print "$partition $offset $key ", $values < 0 ? "-" : unpack("H*", $value), "\n";
    }' <"$work/pipe"
}

# Prints the event in a value, given in hexadecimal. Returns $unreadable, and says why, if nobody can ever read it. Any other failure is the registry's, and
# trying again can help.
unreadable=10
decode() {
  local id schema
  if [ "${1:0:2}" != 00 ] || [ "${#1}" -lt 10 ]; then
    echo "it does not begin with Confluent's framing" >&2
    return "$unreadable"
  fi
  id=$((16#${1:2:8}))
  schema=$work/schema-$id
  if [ ! -s "$schema" ]; then
    if ! ask "/schemas/ids/$id" >"$work/found"; then
      echo "the registry has no schema $id" >&2
      return "$unreadable"
    fi
    jq -r .schema "$work/found" >"$schema"
  fi
  jq -R -c -L "$here" --slurpfile schema "$schema" 'import "avro" as avro; avro::unhex | avro::decode($schema[0])' <<<"${1:10}" || return "$unreadable"
}
