// Read marks, against a server that forgets to answer and loses frames.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Code } from "../dist/events.js";
import { Kind } from "../dist/frame.js";
import { Writer } from "../dist/protobuf.js";
import { Server } from "./server.mjs";

const ANSWER_MS = 5000;

function mark(conversation, syncId, version, kind = 0) {
  return new Writer().number(1, kind).text(2, conversation).number(3, syncId).number(4, version);
}

function page(server, marks, version, more = false) {
  const body = new Writer();
  marks.forEach((one) => body.message(1, one.finish()));
  server.say(Kind.ReadMarks, 1, body.number(2, version).number(3, Number(more)));
}

function read(server, conversation, syncId) {
  server.session.markRead(1, conversation, syncId, server.now);
}

/** What the app was told of marks. */
function told(server) {
  const marks = server.events().filter(({ type }) => type === "read-mark");
  return marks.map(({ conversation, syncId }) => [conversation, syncId]);
}

test("a mark is said until it is confirmed, and only the highest", () => {
  const server = Server.live();
  read(server, "bob", 5);
  read(server, "bob", 4);
  read(server, { group: "bob" }, 2);
  assert.deepEqual(server.said(), ["Read:1:bob:5", "Read:1:group bob:2"]);
  server.say(Kind.Read, 1, mark("bob", 2, 1, 1));
  assert.deepEqual(told(server), [[{ group: "bob" }, 2]]);
  assert.deepEqual(server.pass(ANSWER_MS - 1), []);
  assert.deepEqual(server.pass(1), ["Read:1:bob:5"]);
  read(server, "bob", 7);
  assert.deepEqual(server.said(), ["Read:1:bob:7"]);
  // The answer to what was said before it: not the one that is waited for.
  server.say(Kind.Read, 1, mark("bob", 5, 2));
  server.session.handleDisconnected(server.now);
  read(server, "carol", 1);
  assert.deepEqual(server.pass(10_000), [], "nothing is said without a connection");
  server.session.handleDialling(server.now);
  server.session.handleConnected(server.now);
  server.said();
  server.say(Kind.Connected, 0, new Writer().number(1, 1).number(3, 60_000));
  assert.deepEqual(server.said(), [], "not before the login");
  server.say(Kind.Opened, 1, new Writer());
  assert.deepEqual(server.said(), ["Read:1:bob:7", "Read:1:carol:1"]);
  server.events();
  server.say(Kind.Read, 1, mark("carol", 1, 3));
  server.say(Kind.Read, 1, mark("bob", 9, 4));
  assert.deepEqual(told(server), [["carol", 1], ["bob", 9]], "another device was further");
  assert.deepEqual(server.pass(ANSWER_MS * 2), []);
  read(server, "dave", 1);
  server.said();
  server.reconnect();
  assert.deepEqual(server.said(), ["Read:1:dave:1"], "a new login is told at once");
});

test("what others read is asked for at each login and after a gap", () => {
  const server = Server.live({ readMarks: true });
  assert.deepEqual(server.said(), ["ReadMarks:1:0", "ReadMarks:2:0"]);
  page({ say: (kind, channel, body) => server.say(kind, 2, body) }, [], 0);
  assert.deepEqual(server.pass(ANSWER_MS - 1), []);
  assert.ok(server.pass(1).includes("ReadMarks:1:0"), "not answered, asked again");
  page(server, [mark("bob", 3, 4)], 4, true);
  page(server, [mark("friends", 1, 6, 1)], 6);
  assert.deepEqual(told(server), [["bob", 3], [{ group: "friends" }, 1]]);
  server.say(Kind.Read, 1, mark("bob", 4, 7));
  assert.ok(!server.pass(ANSWER_MS).some((said) => said.startsWith("ReadMarks")), "7 follows 6");
  server.say(Kind.Read, 1, mark("bob", 6, 9));
  server.say(Kind.Read, 1, mark("bob", 7, 10));
  assert.deepEqual(server.said(), ["ReadMarks:1:7"], "8 did not arrive; asked once");
  page(server, [mark("dave", 2, 8), mark("bob", 7, 10)], 10);
  assert.equal(told(server).length, 5);
  assert.deepEqual(server.pass(ANSWER_MS), []);
  server.reconnect();
  assert.deepEqual(server.said(), ["ReadMarks:1:10", "ReadMarks:2:0"], "behind what it has");
});

test("a page that was begun and not ended is asked for again behind what came of it", () => {
  const server = Server.live({ readMarks: true });
  server.said();
  page(server, [mark("bob", 3, 4)], 4, true);
  assert.ok(server.pass(ANSWER_MS).includes("ReadMarks:1:4"));
});

test("who does not want to know is not told but of what comes, and asks for nothing", () => {
  const server = Server.live();
  server.say(Kind.Read, 1, mark("bob", 3, 9));
  assert.deepEqual([told(server), server.said()], [[["bob", 3]], []]);
});

test("a page may be as long as 128 names, and a mark as high as other clients count", () => {
  const server = Server.live({ readMarks: true });
  const names = Array.from({ length: 128 }, (_, number) => `${number}`.padStart(128, "n"));
  page(server, names.map((name) => mark(name, 1, 1)), 128);
  assert.deepEqual(told(server).map(([name]) => name), names);
  // All of 64 bits: "everything" of somebody else's.
  const all = [0x12, 3, ...new TextEncoder().encode("bob"), 0x18, ...Array(9).fill(0xff), 1, 0x20, 0x81, 1];
  server.say(Kind.Read, 1, { finish: () => Uint8Array.from(all) });
  assert.deepEqual(told(server), [["bob", Number.MAX_SAFE_INTEGER]]);
});

test("what another device has acknowledged is told", () => {
  const server = Server.live();
  server.say(Kind.DeviceAck, 1, new Writer().text(1, "pad").number(2, 4));
  assert.deepEqual(server.events(), [{ type: "device-ack", channel: 1, device: "pad", syncId: 4 }]);
});

test("what was read by a login that is over is told nobody", () => {
  const server = Server.live();
  const say = () => {
    server.say(Kind.Read, 1, mark("bob", 3, 1));
    server.say(Kind.DeviceAck, 1, new Writer().text(1, "pad").number(2, 4));
  };
  say();
  server.session.open(1, { app: "shop", account: "dora" });
  assert.deepEqual(server.events(), []);
  say();
  assert.deepEqual(server.events(), [], "before OPENED it is the former login's");
});

test("a mark that is none is not tried", () => {
  const server = Server.live();
  const wrong = [
    ["", 1, "name"], ["a\n", 1, "name"], ["ä".repeat(65), 1, "name"], [{ group: "g".repeat(128) }, 1, "name"],
    ["bob", -1, "sync-id"], ["bob", 0.5, "sync-id"], ["bob", 2 ** 53, "sync-id"],
  ];
  for (const [conversation, syncId, why] of wrong) {
    assert.throws(() => read(server, conversation, syncId), { name: "SubmitError", why });
  }
  assert.throws(() => server.session.markRead(7, "bob", 1, server.now), { why: "no-channel" });
  for (let number = 0; number < 256; number++) {
    read(server, `peer ${number}`, 1);
  }
  assert.throws(() => read(server, "one more", 1), { why: "queue-full" });
  read(server, "peer 7", 2);
  assert.equal(server.said().length, 257, "a higher one has its place");
  server.say(Kind.Close, 1, new Writer().number(1, Code.Kicked));
  assert.throws(() => read(server, "bob", 1), { why: "no-channel" });
});
