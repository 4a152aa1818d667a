// The JavaScript packages @nats-io/*, as they are, against a cluster: publish, fetch, consume, ordered, KV, object store.
//
//     node nats_io.mjs nats://127.0.0.1:4222,nats://127.0.0.1:4223,...
import assert from "node:assert/strict";
import { connect, delay, headers, nanos } from "@nats-io/transport-node";
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { Objm } from "@nats-io/obj";

const servers = process.argv[2].split(",");
const done = [];
async function step(name, work) {
  try {
    await work();
  } catch (error) {
    console.error(`failed: ${name}`);
    throw error;
  }
  done.push(name);
}

const client = await connect({ servers, timeout: 10000 });
const js = jetstream(client, { timeout: 10000 });
const jsm = await jetstreamManager(client, { timeout: 10000 });

await step("request, queue group and requestMany", async () => {
  const other = await connect({ servers: servers.at(-1) });
  for (let n = 0; n < 2; n++) {
    other.subscribe("one", { queue: "q", callback: (_, m) => m.respond(`re: ${m.string()}`) });
    other.subscribe("all", { callback: (_, m) => m.respond(`${n}`) });
  }
  await other.flush();
  // That somebody subscribed takes a moment to reach other nodes, as between servers of the reference.
  let answer;
  for (let n = 0; n < 50 && !answer; n++) {
    answer = await client.request("one", "x").catch(() => delay(20));
  }
  assert.equal(answer.string(), "re: x");
  const answers = [];
  for await (const m of await client.requestMany("all", "x", { maxMessages: 2, maxWait: 5000 })) answers.push(m.string());
  assert.deepEqual(answers.sort(), ["0", "1"]);
  await assert.rejects(client.request("nobody", "x"), /no responders/i);
  await other.drain();
});

await step("stream of three replicas, publish, duplicate, expectation, time to live", async () => {
  await jsm.streams.add({ name: "JS", subjects: ["js.>"], num_replicas: 3, allow_direct: true, allow_msg_ttl: true });
  for (let n = 1; n <= 10; n++) {
    assert.equal((await js.publish(`js.${n % 2}`, `${n}`, { msgID: `id-${n}` })).seq, n);
  }
  assert.equal((await js.publish("js.1", "1", { msgID: "id-1" })).duplicate, true);
  await assert.rejects(js.publish("js.1", "x", { expect: { lastSequence: 3 } }), /wrong last sequence/);
  await assert.rejects(js.publish("elsewhere", "x"));
  const header = headers();
  header.set("Colour", "blue");
  assert.equal((await js.publish("js.h", "h", { headers: header, ttl: "1h" })).seq, 11);
});

await step("get, direct get, batch of direct gets, last by subject", async () => {
  assert.equal((await jsm.streams.getMessage("JS", { seq: 11 })).header.get("Colour"), "blue");
  assert.equal((await jsm.direct.getMessage("JS", { last_by_subj: "js.0" })).seq, 10);
  const some = [];
  for await (const m of await jsm.direct.getBatch("JS", { seq: 3, batch: 4 })) some.push(m.seq);
  assert.deepEqual(some, [3, 4, 5, 6]);
  const newest = [];
  for await (const m of await jsm.direct.getLastMessagesFor("JS", { multi_last: ["js.0", "js.1"] })) newest.push(m.seq);
  assert.deepEqual(newest, [9, 10]);
});

await step("pull: next, fetch, consume, negative acknowledgement, terminate", async () => {
  await jsm.consumers.add("JS", { durable_name: "pull", ack_policy: AckPolicy.Explicit, filter_subject: "js.1" });
  const consumer = await js.consumers.get("JS", "pull");
  const one = await consumer.next();
  assert.equal(one.seq, 1);
  assert.equal(await one.ackAck(), true);
  const seen = [];
  for await (const m of await consumer.fetch({ max_messages: 2, expires: 5000 })) {
    seen.push(m.seq);
    m.ack();
  }
  assert.deepEqual(seen, [3, 5]);
  let refused = false;
  const messages = await consumer.consume({ max_messages: 10 });
  for await (const m of messages) {
    if (m.seq === 7 && !refused) {
      refused = true;
      m.nak(100);
      continue;
    }
    seen.push(m.seq);
    m.seq === 9 ? m.term("enough") : await m.ackAck();
    if (seen.length === 4) break;
  }
  assert.deepEqual(seen.sort((a, b) => a - b), [3, 5, 7, 9]);
  await consumer.delete();
});

await step("consumer: paused, resumed, updated, listed", async () => {
  await jsm.consumers.add("JS", { durable_name: "held", ack_policy: AckPolicy.Explicit });
  assert.equal((await jsm.consumers.pause("JS", "held", new Date(Date.now() + 60000))).paused, true);
  const consumer = await js.consumers.get("JS", "held");
  assert.equal(await consumer.next({ expires: 1000 }), null);
  assert.equal((await jsm.consumers.resume("JS", "held")).paused, false);
  assert.equal((await consumer.next()).seq, 1);
  assert.equal((await jsm.consumers.update("JS", "held", { max_deliver: 7 })).config.max_deliver, 7);
  const names = [];
  for await (const info of jsm.consumers.list("JS")) names.push(info.name);
  assert.deepEqual(names, ["held"]);
  await jsm.consumers.delete("JS", "held");
});

await step("ordered consumer: fetch and consume from a place", async () => {
  const all = await js.consumers.get("JS");
  const seen = [];
  for await (const m of await all.consume()) {
    seen.push(m.seq);
    if (seen.length === 11) break;
  }
  assert.deepEqual(seen, Array.from({ length: 11 }, (_, n) => n + 1));
  const late = await js.consumers.get("JS", { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: 5, filter_subjects: ["js.1"] });
  const some = [];
  for await (const m of await late.fetch({ max_messages: 3, expires: 5000 })) some.push(m.seq);
  assert.deepEqual(some, [5, 7, 9]);
});

await step("push consumer with heartbeats and flow control", async () => {
  await jsm.consumers.add("JS", { durable_name: "push", deliver_subject: "deliver.push", ack_policy: AckPolicy.Explicit, flow_control: true, idle_heartbeat: nanos(1000) });
  const consumer = await js.consumers.getPushConsumer("JS", "push");
  const seen = [];
  for await (const m of await consumer.consume()) {
    seen.push(m.seq);
    m.ack();
    if (seen.length === 11) break;
  }
  assert.equal(seen.at(-1), 11);
  await jsm.consumers.delete("JS", "push");
});

await step("key-value: put, create, update, watch, history, delete, purge, time to live", async () => {
  const manager = new Kvm(js);
  const bucket = await manager.create("bucket", { history: 5, replicas: 3, markerTTL: 2000 });
  await bucket.put("a", "1");
  const revision = await bucket.put("a", "2");
  await assert.rejects(bucket.create("a", "x"));
  await bucket.update("a", "3", revision);
  await assert.rejects(bucket.update("a", "x", revision));
  assert.equal((await bucket.get("a")).string(), "3");
  assert.equal(await bucket.get("nothing"), null);
  const changes = [];
  const watch = await bucket.watch();
  setTimeout(() => bucket.put("b", "new"), 100);
  for await (const entry of watch) {
    changes.push(`${entry.key}=${entry.string()}`);
    if (changes.length === 2) break;
  }
  assert.deepEqual(changes, ["a=3", "b=new"]);
  const history = [];
  for await (const entry of await bucket.history({ key: "a" })) history.push(entry.string());
  assert.deepEqual(history, ["1", "2", "3"]);
  await bucket.create("short", "lived", "1s");
  assert.equal((await bucket.get("short")).string(), "lived");
  const gone = [];
  for await (const entry of await bucket.watch({ key: "short" })) {
    gone.push(entry.operation);
    if (gone.length === 2) break;
  }
  assert.equal(gone[0], "PUT");
  assert.notEqual(gone[1], "PUT");
  await bucket.delete("a");
  assert.equal((await bucket.get("a")).operation, "DEL");
  await bucket.purge("b");
  await bucket.purge("short"); // this client takes the marker of an expired key for a key
  const keys = [];
  for await (const key of await bucket.keys()) keys.push(key);
  assert.deepEqual(keys, []);
  assert.equal((await bucket.status()).bucket, "bucket");
  const buckets = [];
  for await (const status of manager.list()) buckets.push(status.bucket);
  assert.deepEqual(buckets, ["bucket"]);
  await bucket.destroy();
});

await step("object store: put, get, watch, list, link, seal", async () => {
  const manager = new Objm(js);
  const store = await manager.create("objects", { replicas: 3 });
  const blob = new Uint8Array(500_000).map((_, n) => n % 251);
  await store.putBlob({ name: "blob" }, blob);
  assert.deepEqual(await store.getBlob("blob"), blob);
  assert.equal((await store.info("blob")).chunks, 4);
  await store.link("alias", await store.info("blob"));
  assert.deepEqual(await store.getBlob("alias"), blob);
  assert.equal((await store.list()).length, 2);
  await store.delete("blob");
  assert.equal(await store.getBlob("blob"), null);
  assert.equal((await store.seal()).sealed, true);
  await assert.rejects(store.putBlob({ name: "late" }, blob));
  await store.destroy();
});

await step("account, lists, purge, message delete", async () => {
  assert.ok((await jsm.getAccountInfo()).streams >= 1);
  const names = [];
  for await (const stream of jsm.streams.list()) names.push(stream.config.name);
  assert.deepEqual(names, ["JS"]);
  assert.equal(await jsm.streams.find("js.1"), "JS");
  assert.equal(await jsm.streams.deleteMessage("JS", 2), true);
  assert.deepEqual((await jsm.streams.info("JS", { deleted_details: true })).state.deleted, [2]);
  assert.equal((await jsm.streams.purge("JS", { filter: "js.1", keep: 1 })).purged, 4);
  assert.equal(await jsm.streams.delete("JS"), true);
});

await client.drain();
console.log(`${done.length} steps passed: ${done.join("; ")}`);
