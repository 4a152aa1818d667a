// The JavaScript client (npm `nats`), as it is, against a cluster: publish, pull, push, ordered, KV and object store.
//
//     node javascript.mjs nats://127.0.0.1:4222,nats://127.0.0.1:4223,...
import assert from "node:assert/strict";
import { AckPolicy, connect, createInbox, consumerOpts, headers, nanos, StringCodec } from "nats";

const servers = process.argv[2].split(",");
const text = StringCodec();
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
const js = client.jetstream({ timeout: 10000 });
const jsm = await client.jetstreamManager({ timeout: 10000 });

await step("core request and queue group", async () => {
  const second = await connect({ servers: servers.at(-1) });
  for (let n = 0; n < 2; n++) {
    second.subscribe("service", { queue: "q", callback: (_, m) => m.respond(text.encode(`re: ${text.decode(m.data)}`)) });
  }
  await second.flush();
  assert.equal(text.decode((await client.request("service", text.encode("x"))).data), "re: x");
  await second.drain();
});

await step("stream of three replicas, publish, duplicate, expectation", async () => {
  await jsm.streams.add({ name: "JS", subjects: ["js.>"], num_replicas: 3 });
  for (let n = 1; n <= 10; n++) {
    assert.equal((await js.publish(`js.${n % 2}`, text.encode(`${n}`), { msgID: `id-${n}` })).seq, n);
  }
  assert.equal((await js.publish("js.1", text.encode("1"), { msgID: "id-1" })).duplicate, true);
  await assert.rejects(js.publish("js.1", text.encode("x"), { expect: { lastSequence: 3 } }), /wrong last sequence/);
  const header = headers();
  header.set("Colour", "blue");
  assert.equal((await js.publish("js.h", text.encode("h"), { headers: header })).seq, 11);
  assert.equal((await jsm.streams.getMessage("JS", { seq: 11 })).header.get("Colour"), "blue");
});

await step("pull: fetch, consume, negative acknowledgement", async () => {
  await jsm.consumers.add("JS", { durable_name: "pull", ack_policy: AckPolicy.Explicit, filter_subject: "js.1" });
  const consumer = await js.consumers.get("JS", "pull");
  const first = await consumer.fetch({ max_messages: 2, expires: 5000 });
  const seen = [];
  for await (const m of first) {
    seen.push(m.seq);
    m.ack();
  }
  assert.deepEqual(seen, [1, 3]);
  const rest = await consumer.consume({ max_messages: 10 });
  let refused = false;
  for await (const m of rest) {
    if (m.seq === 5 && !refused) {
      refused = true;
      m.nak();
      continue;
    }
    seen.push(m.seq);
    await m.ackAck();
    if (seen.length === 5) break;
  }
  assert.deepEqual([...seen].sort((a, b) => a - b), [1, 3, 5, 7, 9]);
  assert.equal((await consumer.info()).num_ack_pending, 0);
});

await step("push with flow control and heartbeats", async () => {
  const options = consumerOpts();
  options.durable("push").deliverTo(createInbox()).ackExplicit().manualAck().flowControl().idleHeartbeat(500);
  const subscription = await js.subscribe("js.>", options);
  const seen = [];
  for await (const m of subscription) {
    seen.push(m.seq);
    m.ack();
    if (seen.length === 11) break;
  }
  assert.deepEqual(seen, Array.from({ length: 11 }, (_, n) => n + 1));
});

await step("ordered consumer", async () => {
  const consumer = await js.consumers.get("JS");
  const seen = [];
  for await (const m of await consumer.consume()) {
    seen.push(m.seq);
    if (seen.length === 11) break;
  }
  assert.equal(seen.at(-1), 11);
});

await step("key-value: put, create, update, watch, history, delete, purge", async () => {
  const bucket = await js.views.kv("bucket", { history: 5, replicas: 3 });
  await bucket.put("a", text.encode("1"));
  const revision = await bucket.put("a", text.encode("2"));
  await assert.rejects(bucket.create("a", text.encode("x")));
  await bucket.update("a", text.encode("3"), revision);
  await assert.rejects(bucket.update("a", text.encode("x"), revision));
  const watch = await bucket.watch();
  const changes = [];
  setTimeout(() => bucket.put("b", text.encode("new")), 100);
  for await (const entry of watch) {
    changes.push(`${entry.key}=${text.decode(entry.value)}`);
    if (changes.length === 2) break;
  }
  assert.deepEqual(changes, ["a=3", "b=new"]);
  const history = [];
  for await (const entry of await bucket.history({ key: "a" })) history.push(text.decode(entry.value));
  assert.deepEqual(history, ["1", "2", "3"]);
  await bucket.delete("a");
  assert.equal((await bucket.get("a")).operation, "DEL");
  await bucket.purge("b");
  const keys = [];
  for await (const key of await bucket.keys()) keys.push(key);
  assert.deepEqual(keys, []);
  await bucket.destroy();
});

await step("object store", async () => {
  const store = await js.views.os("objects");
  const blob = new Uint8Array(500_000).map((_, n) => n % 251);
  await store.putBlob({ name: "blob" }, blob);
  assert.deepEqual(await store.getBlob("blob"), blob);
  assert.equal((await store.info("blob")).chunks, 4);
  assert.equal((await store.list()).length, 1);
  await store.delete("blob");
  assert.equal(await store.getBlob("blob"), null);
  await store.destroy();
});

await step("account and lists", async () => {
  assert.ok((await jsm.getAccountInfo()).streams >= 1);
  const names = [];
  for await (const stream of jsm.streams.list()) names.push(stream.config.name);
  assert.deepEqual(names, ["JS"]);
  assert.equal((await jsm.streams.purge("JS", { filter: "js.1" })).purged, 5);
  assert.equal(await jsm.streams.delete("JS"), true);
});

await client.drain();
console.log(`${done.length} steps passed: ${done.join("; ")}`);
