// The JavaScript client (npm `nats`), as it is, against a cluster: publish, pull, push, ordered, KV and object store.
//
//     node javascript.mjs nats://127.0.0.1:4222,nats://127.0.0.1:4223,...
import assert from "node:assert/strict";
import { AckPolicy, connect, createInbox, consumerOpts, headers } from "nats";
import {
  askAQueueGroup, lookAround, oneTo, publishEleven, pullTheOdd, report, sequence, servers, step, taken, useBucket, useObjects,
  waiting,
} from "./steps.mjs";

const client = await connect({ servers, ...waiting });
const js = client.jetstream(waiting);
const jsm = await client.jetstreamManager(waiting);

await step("core request and queue group", async () => {
  const other = await connect({ servers: servers.at(-1) });
  await askAQueueGroup(client, other);
  await other.drain();
});

await step("stream of three replicas, publish, duplicate, expectation", async () => {
  await jsm.streams.add({ name: "JS", subjects: ["js.>"], num_replicas: 3 });
  await publishEleven(js, headers());
  assert.equal((await jsm.streams.getMessage("JS", { seq: 11 })).header.get("Colour"), "blue");
});

await step("pull: fetch, consume, negative acknowledgement", async () => {
  await jsm.consumers.add("JS", { durable_name: "pull", ack_policy: AckPolicy.Explicit, filter_subject: "js.1" });
  await pullTheOdd(await js.consumers.get("JS", "pull"));
});

await step("push with flow control and heartbeats", async () => {
  const options = consumerOpts();
  options.durable("push").deliverTo(createInbox()).ackExplicit().manualAck().flowControl().idleHeartbeat(500);
  const seen = await taken(await js.subscribe("js.>", options), (m) => (m.ack(), m.seq), 11);
  assert.deepEqual(seen, oneTo(11));
});

await step("ordered consumer", async () => {
  const consumer = await js.consumers.get("JS");
  assert.deepEqual(await taken(await consumer.consume(), sequence, 11), oneTo(11));
});

await step("key-value: put, create, update, watch, history, delete, purge", async () => {
  const bucket = await js.views.kv("bucket", { history: 5, replicas: 3 });
  await useBucket(bucket);
  await bucket.destroy();
});

await step("object store", async () => {
  const store = await js.views.os("objects");
  await useObjects(store);
  await store.destroy();
});

await step("account and lists", async () => {
  await lookAround(jsm);
  assert.equal((await jsm.streams.purge("JS", { filter: "js.1" })).purged, 5);
  assert.equal(await jsm.streams.delete("JS"), true);
});

await client.drain();
report();
