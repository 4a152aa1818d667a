// The JavaScript packages @nats-io/*, as they are, against a cluster: publish, fetch, consume, ordered, KV, object store.
//
//     node nats_io.mjs nats://127.0.0.1:4222,nats://127.0.0.1:4223,...
import assert from "node:assert/strict";
import { connect, headers, nanos } from "@nats-io/transport-node";
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { Objm } from "@nats-io/obj";
import {
  askAQueueGroup, lookAround, oneTo, publishEleven, pullTheOdd, report, sequence, servers, step, taken, useBucket, useObjects,
  waiting,
} from "./steps.mjs";

const client = await connect({ servers, ...waiting });
const js = jetstream(client, waiting);
const jsm = await jetstreamManager(client, waiting);

await step("request, queue group and requestMany", async () => {
  const other = await connect({ servers: servers.at(-1) });
  for (let n = 0; n < 2; n++) other.subscribe("all", { callback: (_, m) => m.respond(`${n}`) });
  await askAQueueGroup(client, other);
  const answers = await client.requestMany("all", "x", { maxMessages: 2, maxWait: 5000 });
  assert.deepEqual((await taken(answers, (m) => m.string())).sort(), ["0", "1"]);
  await other.drain();
});

await step("stream of three replicas, publish, duplicate, expectation, time to live", async () => {
  await jsm.streams.add({ name: "JS", subjects: ["js.>"], num_replicas: 3, allow_direct: true, allow_msg_ttl: true });
  await publishEleven(js, headers());
  assert.equal((await js.publish("js.t", "t", { ttl: "1h" })).seq, 12);
});

await step("get, direct get, batch of direct gets, last by subject", async () => {
  assert.equal((await jsm.streams.getMessage("JS", { seq: 11 })).header.get("Colour"), "blue");
  assert.equal((await jsm.direct.getMessage("JS", { last_by_subj: "js.0" })).seq, 10);
  assert.deepEqual(await taken(await jsm.direct.getBatch("JS", { seq: 3, batch: 4 }), sequence), [3, 4, 5, 6]);
  const newest = await jsm.direct.getLastMessagesFor("JS", { multi_last: ["js.0", "js.1"] });
  assert.deepEqual(await taken(newest, sequence), [9, 10]);
});

await step("pull: fetch, consume, negative acknowledgement, next, terminate", async () => {
  await jsm.consumers.add("JS", { durable_name: "pull", ack_policy: AckPolicy.Explicit, filter_subject: "js.1" });
  const consumer = await js.consumers.get("JS", "pull");
  await pullTheOdd(consumer);
  await consumer.delete();
  await jsm.consumers.add("JS", { durable_name: "next", ack_policy: AckPolicy.Explicit });
  const next = await js.consumers.get("JS", "next");
  assert.equal(await (await next.next()).ackAck(), true);
  const second = await next.next();
  assert.equal(second.seq, 2);
  second.term("enough");
  assert.equal((await next.next()).seq, 3);
  await next.delete();
});

await step("consumer: paused, resumed, updated, listed", async () => {
  await jsm.consumers.add("JS", { durable_name: "held", ack_policy: AckPolicy.Explicit });
  assert.equal((await jsm.consumers.pause("JS", "held", new Date(Date.now() + 60000))).paused, true);
  const consumer = await js.consumers.get("JS", "held");
  assert.equal(await consumer.next({ expires: 1000 }), null);
  assert.equal((await jsm.consumers.resume("JS", "held")).paused, false);
  assert.equal((await consumer.next()).seq, 1);
  assert.equal((await jsm.consumers.update("JS", "held", { max_deliver: 7 })).config.max_deliver, 7);
  assert.deepEqual(await taken(jsm.consumers.list("JS"), (info) => info.name), ["held"]);
  await jsm.consumers.delete("JS", "held");
});

await step("ordered consumer: fetch and consume from a place", async () => {
  const all = await js.consumers.get("JS");
  assert.deepEqual(await taken(await all.consume(), sequence, 12), oneTo(12));
  const late = await js.consumers.get("JS", { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: 5, filter_subjects: ["js.1"] });
  assert.deepEqual(await taken(await late.fetch({ max_messages: 3, expires: 5000 }), sequence), [5, 7, 9]);
});

await step("push consumer with heartbeats and flow control", async () => {
  await jsm.consumers.add("JS", { durable_name: "push", deliver_subject: "deliver.push", ack_policy: AckPolicy.Explicit, flow_control: true, idle_heartbeat: nanos(1000) });
  const consumer = await js.consumers.getPushConsumer("JS", "push");
  assert.deepEqual(await taken(await consumer.consume(), (m) => (m.ack(), m.seq), 12), oneTo(12));
  await jsm.consumers.delete("JS", "push");
});

await step("key-value: put, create, update, watch, history, delete, purge, time to live", async () => {
  const manager = new Kvm(js);
  const bucket = await manager.create("bucket", { history: 5, replicas: 3, markerTTL: 2000 });
  await useBucket(bucket);
  await bucket.create("short", "lived", "1s");
  assert.equal((await bucket.get("short")).string(), "lived");
  const [came, went] = await taken(await bucket.watch({ key: "short" }), (entry) => entry.operation, 2);
  assert.equal(came, "PUT");
  assert.notEqual(went, "PUT");
  assert.equal((await bucket.status()).bucket, "bucket");
  assert.deepEqual(await taken(manager.list(), (status) => status.bucket), ["bucket"]);
  await bucket.destroy();
});

await step("object store: put, get, list, link, delete, seal", async () => {
  const manager = new Objm(js);
  const store = await manager.create("objects", { replicas: 3 });
  await useObjects(store, async (blob) => {
    await store.link("alias", await store.info("blob"));
    assert.deepEqual(await store.getBlob("alias"), blob);
    assert.equal((await store.list()).length, 2);
  });
  assert.equal((await store.seal()).sealed, true);
  await assert.rejects(store.putBlob({ name: "late" }, new Uint8Array(1)));
  await store.destroy();
});

await step("account, lists, purge, message delete", async () => {
  await lookAround(jsm);
  assert.equal(await jsm.streams.find("js.1"), "JS");
  assert.equal(await jsm.streams.deleteMessage("JS", 2), true);
  assert.deepEqual((await jsm.streams.info("JS", { deleted_details: true })).state.deleted, [2]);
  assert.equal((await jsm.streams.purge("JS", { filter: "js.1", keep: 1 })).purged, 4);
  assert.equal(await jsm.streams.delete("JS"), true);
});

await client.drain();
report();
