# Avro binary in jq, as far as Regent's records go: a module for `jq -L DIR 'import "avro" as avro; …'`. jq counts in doubles, so that whole numbers above
# 2^53 lose their last digits.
#
#   avro::unhex             bytes in hexadecimal → an array of bytes
#   avro::decode($schema)   an array of bytes → the event
#   avro::encode($schema)   an event → bytes in hexadecimal; an unknown or a missing field is an error

def unhex: explode | map(if . > 96 then . - 87 else . - 48 end) | [range(0; length; 2) as $i | .[$i] * 16 + .[$i + 1]];

# names finds the types that a schema defines, by their short names: all of Regent's stand in one namespace.
def names: [.. | objects | select(has("name") and (.type == "record" or .type == "enum" or .type == "fixed"))] | map({key: .name, value: .}) | from_entries;

def resolve($names): if type == "string" then (split(".") | last) as $n | $names[$n] // {type: .} elif type == "array" then {type: "union", of: .} else . end
  | if (.type | type) == "object" then .type | resolve($names) else . end;

# Every reader takes a place in $b and gives [value, next place].
def varint($b): . as $i | $b[$i] as $x | if $x == null then error("the record is cut short")
  elif $x < 128 then [$x, $i + 1] else ($i + 1 | varint($b)) as [$high, $next] | [$x - 128 + $high * 128, $next] end;
def long($b): varint($b) | .[0] |= if . % 2 == 0 then . / 2 else -(. + 1) / 2 end;
def bytes($b): long($b) as [$n, $i] | if $n < 0 or $i + $n > ($b | length) then error("the record is cut short") else [$b[$i:$i + $n], $i + $n] end;
def utf8: if all(.[]; . < 128) then implode else
  reduce .[] as $x ({out: [], left: 0, c: 0};
    if $x < 128 then .out += [$x]
    elif $x < 192 then .c = .c * 64 + $x - 128 | .left -= 1 | if .left == 0 then .out += [.c] else . end
    elif $x < 224 then .c = $x - 192 | .left = 1
    elif $x < 240 then .c = $x - 224 | .left = 2
    else .c = $x - 240 | .left = 3 end) | .out | implode end;
def double: reverse | . as $b | (($b[0] % 128) * 16 + ($b[1] / 16 | floor)) as $exponent
  | (reduce $b[2:][] as $x ($b[1] % 16; . * 256 + $x)) as $fraction
  | (if $exponent == 2047 then null elif $exponent == 0 then $fraction * pow(2; -1074) else (1 + $fraction * pow(2; -52)) * pow(2; $exponent - 1023) end)
  | if . != null and $b[0] > 127 then -. else . end;
def blocks($b; item): . as $start | {at: $start, out: [], more: true} | until(.more | not;
    (.at | long($b)) as [$n, $i] | if $n == 0 then .at = $i | .more = false else
      (if $n < 0 then [-$n, ($i | long($b))[1]] else [$n, $i] end) as [$count, $first]
      | .at = $first | reduce range($count) as $_ (.; (.at | item) as [$v, $next] | .out += [$v] | .at = $next) end) | [.out, .at];
def value($b; $schema; $names): . as $i | ($schema | resolve($names)) as $s |
  if $s.type == "record" then reduce $s.fields[] as $f ([{}, $i]; . as [$r, $at] | ($at | value($b; $f.type; $names)) as [$v, $next] | [$r + {($f.name): $v}, $next])
  elif $s.type == "union" then long($b) as [$n, $next] | if $s.of[$n] == null then error("no branch \($n)") else $next | value($b; $s.of[$n]; $names) end
  elif $s.type == "enum" then long($b) as [$n, $next] | [$s.symbols[$n], $next]
  elif $s.type == "array" then blocks($b; value($b; $s.items; $names))
  elif $s.type == "map" then blocks($b; bytes($b) as [$k, $at] | ($at | value($b; $s.values; $names)) as [$v, $next] | [{key: ($k | utf8), value: $v}, $next]) | .[0] |= from_entries
  elif $s.type == "string" then bytes($b) | .[0] |= utf8
  elif $s.type == "bytes" then bytes($b)
  elif $s.type == "int" or $s.type == "long" then long($b)
  elif $s.type == "boolean" then [$b[$i] == 1, $i + 1]
  elif $s.type == "double" then [($b[$i:$i + 8] | double), $i + 8]
  elif $s.type == "null" then [null, $i]
  else error("no reader of \($s.type)") end;

def decode($schema): . as $b | 0 | value($b; $schema; ($schema | names)) as [$event, $stop]
  | if $stop == ($b | length) then $event else error("\(($b | length) - $stop) bytes are left over") end;

def hex: "0123456789abcdef" as $d | (. / 16 | floor) as $h | (. % 16) as $l | $d[$h:$h + 1] + $d[$l:$l + 1];
def number: if . >= 0 then . * 2 else . * -2 - 1 end | [recurse(if . < 128 then empty else . / 128 | floor end)] | (length - 1) as $last
  | to_entries | map(.value % 128 + if .key < $last then 128 else 0 end | hex) | add;
def text: [@uri | scan("%..|[^%]")] | (length | number) + (map(if length == 3 then .[1:] | ascii_downcase else explode[0] | hex end) | add // "");
# write takes a value and gives hexadecimal. $at says where, for people. A value of a union is given bare; that of a union of records as {"name": value}.
def write($schema; $names; $at): . as $v | ($schema | resolve($names)) as $s |
  def want($ok): if $ok then . else error("\($at): expected \($s.type), got \($v | tojson)") end;
  if $s.type == "record" then want(type == "object")
    | (keys - [$s.fields[].name]) as $unknown | if $unknown != [] then error("\($at) has no field \($unknown[0])") else . end
    | [$s.fields[] as $f | (if has($f.name) then .[$f.name] elif $f | has("default") then $f.default else error("\($at).\($f.name) is missing") end)
      | write($f.type; $names; "\($at).\($f.name)")] | add // ""
  elif $s.type == "union" then
    (if $v == null then "null" elif ($v | type) == "object" and ($v | length) == 1 and ([$s.of[] | resolve($names).name] | index($v | keys[0])) then $v | keys[0] else null end) as $tag
    | ([$s.of[] | resolve($names) | .name // .type] | if $tag then index($tag) else map(. != "null") | index(true) end) as $n
    | if $n == null then error("\($at): no branch for \($v | tojson)") else ($n | number) + ((if $tag and $tag != "null" then $v[$tag] else $v end) | write($s.of[$n]; $names; "\($at).\($tag // "")")) end
  elif $s.type == "enum" then ($s.symbols | index($v)) as $n | want($n != null) | $n | number
  elif $s.type == "array" then want(type == "array") | if $v == [] then "00" else ($v | length | number) + ([$v[] | write($s.items; $names; $at)] | add) + "00" end
  elif $s.type == "string" then want(type == "string") | text
  elif $s.type == "int" or $s.type == "long" then want(type == "number" and . == floor) | number
  elif $s.type == "boolean" then want(type == "boolean") | if . then "01" else "00" end
  elif $s.type == "null" then ""
  else error("\($at): no writer of \($s.type)") end;

def encode($schema): write($schema; ($schema | names); $schema.name);
