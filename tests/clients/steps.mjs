// What both generations of the JavaScript client do in the same way, and how a script reports its steps.
import assert from "node:assert/strict";

export const servers = process.argv[2].split(",");
export const waiting = { timeout: 10000 };

const done = [];
export async function step(name, work) {
  try {
    await work();
  } catch (error) {
    console.error(`failed: ${name}`);
    throw error;
  }
  done.push(name);
}

export function report() {
  console.log(`${done.length} steps passed: ${done.join("; ")}`);
}

/** What `pick` finds in the first `count` of what an iterator gives; in all of it if there is no count. */
export async function taken(iterator, pick, count = Infinity) {
  const found = [];
  for await (const each of iterator) {
    found.push(pick(each));
    if (found.length === count) break;
  }
  return found;
}

export const sequence = (message) => message.seq;
export const oneTo = (count) => Array.from({ length: count }, (_, n) => n + 1);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Two answer as a queue group on another node; each request has one answer. */
export async function askAQueueGroup(client, other) {
  for (let n = 0; n < 2; n++) {
    other.subscribe("one", { queue: "q", callback: (_, m) => m.respond(`re: ${m.string()}`) });
  }
  await other.flush();
  // That somebody subscribed takes a moment to reach other nodes, as between servers of the reference.
  let answer;
  for (let n = 0; n < 50 && !answer; n++) {
    answer = await client.request("one", "x").catch(() => pause(20));
  }
  assert.equal(answer.string(), "re: x");
  await assert.rejects(client.request("nobody", "x"), /no responders|503/i);
}

/** Ten messages on two subjects and one with a header; what is a duplicate or not expected is no message. */
export async function publishEleven(js, header) {
  for (let n = 1; n <= 10; n++) {
    assert.equal((await js.publish(`js.${n % 2}`, `${n}`, { msgID: `id-${n}` })).seq, n);
  }
  assert.equal((await js.publish("js.1", "1", { msgID: "id-1" })).duplicate, true);
  await assert.rejects(js.publish("js.1", "x", { expect: { lastSequence: 3 } }), /wrong last sequence/);
  await assert.rejects(js.publish("elsewhere", "x"));
  header.set("Colour", "blue");
  assert.equal((await js.publish("js.h", "h", { headers: header })).seq, 11);
}

/** All messages with odd numbers below eleven: two fetched, the rest consumed, one of them at the second attempt. */
export async function pullTheOdd(consumer) {
  const seen = [];
  for await (const m of await consumer.fetch({ max_messages: 2, expires: 5000 })) {
    seen.push(m.seq);
    m.ack();
  }
  assert.deepEqual(seen, [1, 3]);
  let refused = false;
  for await (const m of await consumer.consume({ max_messages: 10 })) {
    if (m.seq === 7 && !refused) {
      refused = true;
      m.nak(100);
      continue;
    }
    seen.push(m.seq);
    await m.ackAck();
    if (seen.length === 5) break;
  }
  assert.deepEqual(seen.sort((a, b) => a - b), [1, 3, 5, 7, 9]);
  assert.equal((await consumer.info()).num_ack_pending, 0);
}

/** A bucket with a history of five: its keys come and go, and a watcher sees it. No key is left. */
export async function useBucket(bucket) {
  await bucket.put("a", "1");
  const revision = await bucket.put("a", "2");
  await assert.rejects(bucket.create("a", "x"));
  await bucket.update("a", "3", revision);
  await assert.rejects(bucket.update("a", "x", revision));
  assert.equal((await bucket.get("a")).string(), "3");
  assert.equal(await bucket.get("nothing"), null);
  const watch = await bucket.watch();
  setTimeout(() => bucket.put("b", "new"), 100);
  assert.deepEqual(await taken(watch, (entry) => `${entry.key}=${entry.string()}`, 2), ["a=3", "b=new"]);
  const history = await taken(await bucket.history({ key: "a" }), (entry) => entry.string());
  assert.deepEqual(history, ["1", "2", "3"]);
  await bucket.delete("a");
  assert.equal((await bucket.get("a")).operation, "DEL");
  await bucket.purge("b");
  assert.deepEqual(await taken(await bucket.keys(), (key) => key), []);
}

/** An object of four chunks is there, whole, until it is deleted; `between` looks at it meanwhile. */
export async function useObjects(store, between = async () => {}) {
  const blob = new Uint8Array(500_000).map((_, n) => n % 251);
  await store.putBlob({ name: "blob" }, blob);
  assert.deepEqual(await store.getBlob("blob"), blob);
  assert.equal((await store.info("blob")).chunks, 4);
  assert.equal((await store.list()).length, 1);
  await between(blob);
  await store.delete("blob");
  assert.equal(await store.getBlob("blob"), null);
}

/** The account and the names of all streams, of which there is one. */
export async function lookAround(jsm) {
  assert.ok((await jsm.getAccountInfo()).streams >= 1);
  assert.deepEqual(await taken(jsm.streams.list(), (stream) => stream.config.name), ["JS"]);
}
