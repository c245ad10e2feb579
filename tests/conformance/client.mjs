// Node's etcd3 against a cluster of Quorate: keys, transactions, leases, watches, and its lock.
//
// ENDPOINTS holds the client addresses of all members, with commas; MODULES the directory that npm installed into.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.MODULES}/`);
const { Etcd3, EtcdLockFailedError } = require("etcd3");
const endpoints = process.env.ENDPOINTS.split(",");
const one = new Etcd3({ hosts: endpoints });
const other = new Etcd3({ hosts: endpoints[1] });
const PATIENCE_MS = 30_000;

function soon(what, promise) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error(`waited in vain for ${what}`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// Keys: put through any member, read at one.
await one.put("/a").value("1");
assert.equal(await other.get("/a").string(), "1");
assert.equal(await other.get("/none").string(), null);
const replaced = await one.put("/a").value("2").getPrevious();
assert.equal(replaced.value.toString(), "1");
await Promise.all(["x", "y", "z"].map((name) => one.put(`/p/${name}`).value(name.toUpperCase())));
assert.deepEqual(await other.getAll().prefix("/p/").strings(), { "/p/x": "X", "/p/y": "Y", "/p/z": "Z" });
assert.deepEqual(await other.getAll().prefix("/p/").sort("Key", "Descend").limit(2).keys(), ["/p/z", "/p/y"]);
assert.equal(await other.getAll().prefix("/p/").count(), 3);
const old = (await other.get("/a").exec()).kvs[0].mod_revision;
assert.equal((await one.delete().prefix("/p/")).deleted, "3");

// Transactions.
const swapped = await one.if("/a", "Value", "==", "2").then(one.put("/a").value("3")).else(one.put("/a").value("wrong")).commit();
assert.equal(swapped.succeeded, true);
const kept = await one.if("/new", "Create", "==", 0).and("/a", "Value", "==", "9").then(one.delete().key("/a")).else(one.get("/a")).commit();
assert.equal(kept.succeeded, false);
assert.equal(kept.responses[0].response_range.kvs[0].value.toString(), "3");

// Software transactional memory is compares of mod revisions: two that collide both count.
await one.put("/n").value(0);
const add = (client) => client.stm().transact(async (tx) => tx.put("/n").value((await tx.get("/n").number()) + 1));
await Promise.all([add(one), add(other), add(one)]);
assert.equal(await other.get("/n").number(), 3);

// Watches.
const watcher = await soon("a watch", other.watch().prefix("/w/").withPreviousKV().create());
const seen = [];
const all = new Promise((done) => {
  const take = (kind) => (kv, previous) => {
    seen.push([kind, kv.key.toString(), kv.value.toString(), previous?.value.toString() ?? null]);
    if (seen.length === 3) done();
  };
  watcher.on("put", take("put"));
  watcher.on("delete", take("delete"));
});
await one.put("/w/1").value("a");
await one.put("/w/1").value("b");
await one.delete().key("/w/1");
await soon("three events", all);
assert.deepEqual(seen, [
  ["put", "/w/1", "a", null],
  ["put", "/w/1", "b", "a"],
  ["delete", "/w/1", "", "b"],
]);
await watcher.cancel();
const past = await soon("a watch", other.watch().key("/a").startRevision(old).create());
const again = await soon("an event of the past", new Promise((done) => past.once("put", done)));
assert.equal(again.value.toString(), "2");
await past.cancel();

// Leases.
const lease = one.lease(60);
await lease.put("/l").value("x");
const id = await lease.grant();
assert.deepEqual((await lease.keepaliveOnce()).TTL, "60");
assert.equal((await other.get("/l").exec()).kvs[0].lease, id);
await lease.revoke();
assert.equal(await other.get("/l").string(), null);

// Its lock is a key with a lease.
const lock = one.lock("job").ttl(60);
await lock.acquire();
await assert.rejects(() => other.lock("job").ttl(60).acquire(), EtcdLockFailedError);
await lock.release();
await other.lock("job").ttl(60).do(async () => {});

// The cluster.
assert.equal((await one.cluster.memberList({})).members.length, endpoints.length);
const status = await one.maintenance.status();
assert.notEqual(status.leader, "0");
assert.match(status.version, /^\d+\.\d+\.\d+$/);
one.close();
other.close();
console.log("Node's etcd3: all as it should be");
