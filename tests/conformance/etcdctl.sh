#!/usr/bin/env bash
# Debian's etcdctl against a cluster of Quorate: what an operator types, and what must come out.
#
# ENDPOINTS holds the client addresses of all members, with commas. Ends with 0 only if all is as it should be.
set -euo pipefail
export ETCDCTL_API=3
export ETCDCTL_ENDPOINTS="$ENDPOINTS"
work="$(mktemp -d)"
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT

# equal WHAT EXPECTED SEEN
equal() {
    if [ "$2" != "$3" ]; then
        printf 'FAILED: %s\nexpected:\n%s\nseen:\n%s\n' "$1" "$2" "$3" >&2
        exit 1
    fi
    echo "ok: $1"
}

# refused WHAT TEXT COMMAND...
refused() {
    local what="$1" text="$2" out
    shift 2
    if out="$("$@" 2>&1)"; then
        echo "FAILED: $what: it succeeded: $out" >&2
        exit 1
    fi
    case "$out" in
        *"$text"*) echo "ok: $what" ;;
        *) echo "FAILED: $what: it said: $out" >&2 && exit 1 ;;
    esac
}

lines() { printf '%s\n' "$@"; }

# Waits until a file holds so many lines, with a deadline.
until_lines() {
    touch "$1"
    for _ in $(seq 600); do
        [ "$(wc -l <"$1")" -ge "$2" ] && return
        sleep 0.05
    done
    echo "FAILED: waited in vain for $2 lines in $1:" >&2
    cat "$1" >&2
    exit 1
}

field() { python3 -c 'import json, sys; print(eval("answer" + sys.argv[1], {"answer": json.load(sys.stdin)}))' "$1"; }
revision() { etcdctl get none -w json | field '["header"]["revision"]'; }

# Keys.
equal "put" OK "$(etcdctl put /a 1)"
equal "get" "$(lines /a 1)" "$(etcdctl get /a)"
equal "a previous value" "$(lines OK /a 1)" "$(etcdctl put --prev-kv /a 2)"
equal "a value from standard input" OK "$(echo -n from stdin | etcdctl put /b)"
equal "only the value" "from stdin" "$(etcdctl get /b --print-value-only)"
etcdctl put /c 3 >/dev/null && etcdctl put d 4 >/dev/null
equal "a prefix" "$(lines /a 2 /b 'from stdin' /c 3)" "$(etcdctl get --prefix / --print-value-only=false)"
equal "a range" "$(lines /a 2 /b 'from stdin')" "$(etcdctl get /a /c)"
equal "from a key" "$(lines /c 3 d 4)" "$(etcdctl get --from-key /c)"
equal "a limit" "$(lines /a 2)" "$(etcdctl get --prefix / --limit 1)"
equal "the count, whatever the limit" 3 "$(etcdctl get --prefix / --limit 1 -w json | field '["count"]')"
equal "keys only" "/a /b /c" "$(etcdctl get --prefix / --keys-only | xargs)"
equal "backwards" "$(lines /c 3 /b 'from stdin' /a 2)" "$(etcdctl get --prefix / --order=DESCEND --sort-by=KEY)"
equal "by value" "$(lines /a 2 /c 3 /b 'from stdin')" "$(etcdctl get --prefix / --order=ASCEND --sort-by=VALUE)"
equal "serializable" "$(lines /a 2)" "$(etcdctl get /a --consistency=s)"
before="$(revision)"
equal "delete gives the number" 1 "$(etcdctl del d)"
equal "delete nothing" 0 "$(etcdctl del d)"
equal "delete gives what was" "$(lines 1 /c 3)" "$(etcdctl del --prev-kv /c)"
equal "an older revision" "$(lines d 4)" "$(etcdctl get d --rev "$before")"
equal "ignore the value" OK "$(etcdctl put --ignore-value /a)"
equal "the value stayed" 2 "$(etcdctl get /a --print-value-only)"
refused "ignore the value of nothing" "etcdserver: key not found" etcdctl put --ignore-value /none
refused "a lease that is not there" "etcdserver: requested lease not found" etcdctl put --lease=7f7f /a 1
refused "a future revision" "etcdserver: mvcc: required revision is a future revision" etcdctl get /a --rev 1000000

# Transactions.
equal "a transaction that holds" "$(lines SUCCESS '' OK '' /t 1)" \
    "$(printf 'create("/t") = "0"\n\nput /t 1\nget /t\n\nput /t 2\n\n' | etcdctl txn)"
equal "a transaction that does not" "$(lines FAILURE '' OK)" \
    "$(printf 'value("/t") = "9"\n\nput /t 9\n\nput /t 2\n\n' | etcdctl txn)"
equal "versions in a transaction" "$(lines SUCCESS '' 1)" \
    "$(printf 'version("/t") > "1"\nmod("/t") > "1"\n\ndel /t\n\n\n' | etcdctl txn)"

# Watches.
start="$(($(revision) + 1))"
etcdctl watch --prefix /w --rev "$start" --prev-kv >"$work/watch" 2>&1 &
etcdctl put /w/1 a >/dev/null
etcdctl put /w/1 b >/dev/null
etcdctl del /w/1 >/dev/null
until_lines "$work/watch" 13
equal "a watch with previous values" "PUT /w/1 a PUT /w/1 a /w/1 b DELETE /w/1 b /w/1" \
    "$(xargs <"$work/watch")"
etcdctl put /w/x 1 >/dev/null
etcdctl watch /w/x --rev "$start" -w json >"$work/json" 2>&1 &
until_lines "$work/json" 1
equal "a watch of one key from the past" "L3cveA==" "$(head -1 "$work/json" | field '["Events"][0]["kv"]["key"]')"

# Leases.
lease="$(etcdctl lease grant 600 | awk '{print $2}')"
etcdctl put --lease="$lease" /l/1 a >/dev/null
etcdctl put --lease="$lease" /l/2 b >/dev/null
equal "a lease's keys" "[/l/1 /l/2]" "$(etcdctl lease timetolive --keys "$lease" | sed 's/.*attached keys(\(.*\))/\1/')"
equal "leases" "$(lines 'found 1 leases' "$lease")" "$(etcdctl lease list)"
equal "keep-alive" "lease $lease keepalived with TTL(600)" "$(etcdctl lease keep-alive --once "$lease")"
equal "revoke" "lease $lease revoked" "$(etcdctl lease revoke "$lease")"
equal "the keys went with it" "" "$(etcdctl get --prefix /l/)"
equal "a lease that is gone" "lease $lease already expired" "$(etcdctl lease timetolive "$lease")"
refused "revoke it again" "etcdserver: requested lease not found" etcdctl lease revoke "$lease"
start="$(($(revision) + 1))"
etcdctl watch /short --rev "$start" >"$work/short" 2>&1 &
short="$(etcdctl lease grant 1 | awk '{print $2, $5}')"
equal "a short lease is raised to two seconds" "TTL(2s)" "${short#* }"
etcdctl put --lease="${short% *}" /short x >/dev/null
until_lines "$work/short" 5
equal "a lease that ends by itself takes its key" "$(lines PUT /short x DELETE /short)" "$(head -5 "$work/short")"

# Locks and elections.
etcdctl lock /lock/a >"$work/lock1" 2>&1 &
first=$!
until_lines "$work/lock1" 1
etcdctl lock /lock/a >"$work/lock2" 2>&1 &
second=$!
for _ in $(seq 600); do
    [ "$(etcdctl get --prefix /lock/a/ --keys-only -w json | field '.get("count", 0)')" = 2 ] && break
    sleep 0.05
done
equal "the lock is the key that was made first" "$(head -1 "$work/lock1")" \
    "$(etcdctl get --prefix /lock/a/ --sort-by=CREATE --order=ASCEND --limit 1 --keys-only | head -1)"
equal "the second one waits" "" "$(cat "$work/lock2")"
kill -INT "$first"
until_lines "$work/lock2" 1
kill -INT "$second"
wait "$first" "$second" || true
equal "both have released it" "" "$(etcdctl get --prefix /lock/a/)"
equal "a command under a lock" "held" "$(etcdctl lock /lock/b echo held)"
etcdctl elect /elect one >"$work/elect" 2>&1 &
elected=$!
until_lines "$work/elect" 2
equal "a leader is elected" one "$(sed -n 2p "$work/elect")"
etcdctl elect -l /elect >"$work/listen" 2>&1 &
listens=$!
until_lines "$work/listen" 2
equal "and listened to" one "$(sed -n 2p "$work/listen")"
kill -INT "$elected" "$listens"
wait "$elected" "$listens" || true

# Compaction.
now="$(revision)"
equal "compaction" "compacted revision $now" "$(etcdctl compaction "$now")"
refused "compacted" "etcdserver: mvcc: required revision has been compacted" etcdctl get /a --rev "$before"
refused "compact it again" "etcdserver: mvcc: required revision has been compacted" etcdctl compaction "$now"
equal "physical compaction" "compacted revision $(($(etcdctl put /a 9 >/dev/null && revision)))" "$(etcdctl compaction --physical "$(revision)")"

# The cluster.
members="$(tr , '\n' <<<"$ENDPOINTS" | wc -l)"
equal "all members are healthy" "$members" "$(etcdctl endpoint health 2>&1 | grep -c 'is healthy')"
equal "the list of members" "$members" "$(etcdctl member list | grep -c started)"
equal "one leader, known to all" 1 \
    "$(etcdctl endpoint status -w json | python3 -c 'import json, sys; print(len({one["Status"]["leader"] for one in json.load(sys.stdin)}))')"
equal "the list has what clients connect to" "$members" \
    "$(etcdctl member list -w json | python3 -c 'import json, os, sys
listed = {url for one in json.load(sys.stdin)["members"] for url in one["clientURLs"]}
print(len(listed & {"http://" + one for one in os.environ["ENDPOINTS"].split(",")}))')"
equal "versions are three numbers" "$members" "$(etcdctl endpoint status | grep -cE ', [0-9]+\.[0-9]+\.[0-9]+, ')"
# Endpoints with a scheme, as etcd's own pages write them, and as the list of members has them.
urls="http://${ENDPOINTS//,/,http://}"
equal "a put to a URL" OK "$(ETCDCTL_ENDPOINTS="$urls" etcdctl put /by/url 1)"
equal "a get from a URL with a path" "$(lines /by/url 1)" "$(ETCDCTL_ENDPOINTS="${urls%%,*}/" etcdctl get /by/url)"
equal "all members of the list are healthy" "$members" "$(etcdctl endpoint health --cluster 2>&1 | grep -c 'is healthy')"
equal "all members of the list have a status" "$members" "$(etcdctl endpoint status --cluster 2>&1 | grep -c ', 3.6.0, ')"
ETCDCTL_ENDPOINTS="$urls" etcdctl watch --rev "$(revision)" /by/watch >"$work/url" 2>&1 &
url_watch=$!
for i in $(seq 100); do ETCDCTL_ENDPOINTS="$urls" etcdctl put "/by/many/$i" "$i" >/dev/null; done
equal "many puts by URL" 100 "$(ETCDCTL_ENDPOINTS="$urls" etcdctl get --prefix /by/many/ -w json | field '["count"]')"
ETCDCTL_ENDPOINTS="$urls" etcdctl put /by/watch 1 >/dev/null
until_lines "$work/url" 3
kill "$url_watch"
equal "a watch by URL" "$(lines PUT /by/watch 1)" "$(cat "$work/url")"

etcdctl put /last 1 >/dev/null
equal "equal contents" 1 \
    "$(etcdctl endpoint hashkv --rev "$(revision)" -w json | python3 -c 'import json, sys; print(len({one["HashKV"]["hash"] for one in json.load(sys.stdin)}))')"
echo "etcdctl: all as it should be"
