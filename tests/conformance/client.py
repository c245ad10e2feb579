"""Python's etcd3 against a cluster of Quorate: keys, transactions, leases, watches, and its lock.

ENDPOINTS holds the client addresses of all members, with commas.
"""

import os
import queue

import etcd3

hosts = [address.rsplit(":", 1) for address in os.environ["ENDPOINTS"].split(",")]
PATIENCE = 30


def connect(member):
    host, port = hosts[member]
    return etcd3.client(host=host, port=int(port), timeout=PATIENCE)


def refused(error, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except error:
        return
    raise AssertionError(f"{call} was not refused")


one, other = connect(0), connect(1)

# Keys: put at one member, read at another.
one.put("/a", "1")
value, meta = other.get("/a")
assert value == b"1" and meta.key == b"/a" and meta.version == 1, (value, meta)
assert meta.create_revision == meta.mod_revision == meta.response_header.revision, meta
assert one.put("/a", "2", prev_kv=True).prev_kv.value == b"1"
assert other.get("/none") == (None, None)
for name in ["x", "y", "z"]:
    one.put(f"/p/{name}", name.upper())
assert [(kv.key, value) for value, kv in other.get_prefix("/p/")] == [(b"/p/x", b"X"), (b"/p/y", b"Y"), (b"/p/z", b"Z")]
assert [value for value, _ in other.get_prefix("/p/", sort_order="descend", sort_target="key")] == [b"Z", b"Y", b"X"]
assert [value for value, _ in other.get_range("/p/x", "/p/z")] == [b"X", b"Y"]
assert len(list(other.get_prefix("/p/", keys_only=True))) == 3
assert len(list(other.get_all())) == 4
assert other.delete("/p/x") is True and other.delete("/p/x") is False
assert other.delete_prefix("/p/").deleted == 2

# Compare and swap, and transactions.
assert one.replace("/a", "2", "3") is True and one.replace("/a", "2", "4") is False
assert one.put_if_not_exists("/b", "1") is True and one.put_if_not_exists("/b", "2") is False
good, answers = one.transaction(
    compare=[one.transactions.value("/a") == "3", one.transactions.version("/a") > 0, one.transactions.create("/c") == 0],
    success=[one.transactions.put("/c", "new"), one.transactions.get("/a")],
    failure=[one.transactions.put("/c", "wrong")],
)
assert good and answers[1][0][0] == b"3", (good, answers)
nested, _ = one.transaction(
    compare=[],
    success=[
        one.transactions.txn(
            compare=[one.transactions.mod("/c") > 1], success=[one.transactions.delete("/c")], failure=[]
        )
    ],
    failure=[],
)
assert nested and other.get("/c") == (None, None)

# Watches at another member: put, overwrite, delete, each once and in order.
events = queue.Queue()
watch_id = other.add_watch_callback("/w", lambda answer: [events.put(event) for event in answer.events], prev_kv=True)
one.put("/w", "1")
one.put("/w", "2")
one.delete("/w")
seen = [events.get(timeout=PATIENCE) for _ in range(3)]
assert [type(event).__name__ for event in seen] == ["PutEvent", "PutEvent", "DeleteEvent"], seen
assert [event.value for event in seen] == [b"1", b"2", b""], seen
assert seen[2].prev_value == b"2", seen[2]
other.cancel_watch(watch_id)
first = seen[0].mod_revision
iterator, cancel = other.watch_prefix("/w", start_revision=first)
assert [next(iterator).mod_revision for _ in range(3)] == [first, first + 1, first + 2]
cancel()

# Leases.
lease = one.lease(600)
one.put("/l", "x", lease=lease)
assert other.get("/l")[1].lease_id == lease.id
info = other.get_lease_info(lease.id)
assert info.grantedTTL == 600 and 0 < info.TTL <= 600 and list(info.keys) == [b"/l"], info
assert [answer.TTL for answer in lease.refresh()] == [600]
gone = queue.Queue()
watch_id = other.add_watch_callback("/l", lambda answer: [gone.put(event) for event in answer.events])
lease.revoke()
assert type(gone.get(timeout=PATIENCE)).__name__ == "DeleteEvent"
assert other.get("/l") == (None, None)
other.cancel_watch(watch_id)

# Compaction.
at = one.get("/a")[1].mod_revision
one.put("/a", "9")
one.compact(one.get("/a")[1].mod_revision)
iterator, cancel = other.watch("/a", start_revision=at)
refused(etcd3.exceptions.RevisionCompactedError, next, iterator)

# Its lock is a key with a lease. (Its way of waiting misses a release that comes before it watches, so nobody waits here.)
with one.lock("job", ttl=60):
    assert other.lock("job", ttl=60).acquire(timeout=1) is False
taken = other.lock("job", ttl=60)
assert taken.acquire(timeout=PATIENCE) is True and taken.is_acquired()
assert taken.release() and one.get("/locks/job") == (None, None)

# The cluster.
assert len(list(one.members)) == len(hosts)
status = one.status()
assert status.leader is not None and status.raft_term > 0 and status.version.count(".") == 2, vars(status)
one.close()
other.close()
print("Python's etcd3: all as it should be")
