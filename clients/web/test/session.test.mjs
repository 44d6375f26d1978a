import assert from "node:assert/strict";
import { test } from "node:test";

import { Code } from "../dist/events.js";
import { Kind, encodeFrame } from "../dist/frame.js";
import { Fields, Writer, concat, utf8 } from "../dist/protobuf.js";
import { Session } from "../dist/session.js";
import { Server, delivery } from "./server.mjs";

test("connect and every open leave together", () => {
  const server = Server.live();
  assert.deepEqual(server.greeting.map(({ kind, channel }) => [kind, channel]), [[1, 0], [3, 1], [3, 2]]);
  const open = new Fields(server.greeting[1].body);
  assert.deepEqual([open.text(1), open.text(2), open.number(4)], ["shop", "alice", 0]);
  // Zero is said: it is another thing than leaving it to the router.
  assert.deepEqual([...server.greeting[1].body.slice(-2)], [0x20, 0]);
});

test("bytes cut anywhere mean the same", () => {
  const stream = concat([1, 2, 3].map((id) => encodeFrame(Kind.Data, 1, 1, delivery(id).finish())));
  for (let cut = 0; cut <= stream.length; cut++) {
    const server = Server.live();
    server.session.handleBytes(stream.subarray(0, cut), server.now);
    server.session.handleBytes(stream.subarray(cut), server.now);
    assert.deepEqual(server.messages(), [1, 2, 3], `cut at ${cut}`);
  }
  const server = Server.live();
  for (const byte of stream) {
    server.session.handleBytes(Uint8Array.of(byte), server.now);
  }
  assert.deepEqual(server.messages(), [1, 2, 3]);
});

test("a duplicate is dropped and acknowledged again", () => {
  const server = Server.live();
  [1, 2, 2, 1].forEach((id) => server.deliver(1, id));
  assert.deepEqual(server.messages(), [1, 2]);
  assert.deepEqual(server.pass(100), ["Ack:1:2"]);
  server.deliver(1, 2);
  assert.deepEqual(server.messages(), []);
  assert.deepEqual(server.pass(100), ["Ack:1:2"]);
});

test("a gap is asked for once, what is past retention is passed over", () => {
  const server = Server.live();
  server.deliver(1, 1);
  assert.deepEqual(server.messages(), [1]);
  server.pass(100);
  server.deliver(1, 3);
  server.deliver(1, 4);
  assert.deepEqual(server.messages(), []);
  assert.deepEqual(server.said(), ["Sync:1:1"]);
  server.now += 2000;
  server.deliver(1, 4);
  assert.deepEqual(server.said(), ["Sync:1:1"]);
  server.deliver(1, 7, 7);
  const events = server.events();
  assert.deepEqual(events[0], { type: "expired", channel: 1, first: 2, last: 6 });
  assert.equal(events[1].syncId, 7);
});

test("transient messages are handed over and not acknowledged", () => {
  const server = Server.live();
  server.deliver(1, 0);
  assert.deepEqual(server.messages(), [undefined]);
  assert.deepEqual(server.pass(1000), []);
});

test("nothing is acknowledged before the app has it", () => {
  const server = Server.live({ autoAcknowledge: false });
  [1, 2, 3].forEach((id) => server.deliver(1, id));
  assert.deepEqual(server.messages(), [1, 2, 3]);
  assert.deepEqual(server.pass(1000), []);
  server.session.acknowledge(1, 2, server.now);
  assert.deepEqual(server.pass(1000), ["Ack:1:2"]);
  server.session.acknowledge(1, 99, server.now);
  assert.deepEqual(server.pass(1000), ["Ack:1:3"]);
});

test("a reconnect resumes behind what is processed", () => {
  const server = Server.live({ autoAcknowledge: false });
  [1, 2, 3].forEach((id) => server.deliver(1, id));
  server.events();
  server.session.acknowledge(1, 2, server.now);
  server.reconnect();
  assert.equal(new Fields(server.greeting[1].body).number(4), 2);
  server.deliver(1, 3);
  server.deliver(1, 4);
  assert.deepEqual(server.messages(), [4], "3 was handed over before");
});

test("a lost answer: the same client id goes out again, and one answer is told", () => {
  const server = Server.live();
  server.submit("a");
  assert.deepEqual(server.said(), ["Data:1:a"]);
  assert.deepEqual(server.pass(4999), []);
  // The server has been silent for as long: it is asked whether it lives.
  assert.deepEqual(server.pass(1), ["Data:1:a", "Ping:0"]);
  server.answer(1, "a", Code.Ok, 9);
  server.answer(1, "a", Code.Ok, 9);
  const events = server.events();
  assert.deepEqual(events.map(({ type, syncId }) => [type, syncId]), [["accepted", 9]]);
  assert.equal(server.session.unanswered, 0);
});

test("unanswered submits survive a reconnect in their order", () => {
  const server = Server.live();
  ["a", "b", "c"].forEach((id) => server.submit(id));
  server.said();
  server.answer(1, "b", Code.Ok, 1);
  server.reconnect();
  assert.deepEqual(server.said(), ["Data:1:a", "Data:1:c"]);
});

test("a refusal that may pass is tried again, another is told", () => {
  const server = Server.live();
  server.submit("a");
  server.said();
  server.answer(1, "a", Code.Overloaded);
  assert.deepEqual(server.events().map(({ type, code }) => [type, code]), [["delayed", Code.Overloaded]]);
  assert.deepEqual(server.pass(200), ["Data:1:a"]);
  server.answer(1, "a", Code.Unauthorized);
  assert.deepEqual(server.events().map(({ type, code }) => [type, code]), [["refused", Code.Unauthorized]]);
});

test("why a submit is not accepted yet is told once for each reason", () => {
  const server = Server.live();
  const told = (code, detail) => {
    server.answer(1, "a", code, 0, detail);
    const events = server.events().map(({ type, code, detail }) => `${type}: ${code} ${detail}`);
    server.pass(5000);
    return events;
  };
  server.session.submit(1, utf8("a"), "bob", utf8("hello"), server.now, { level: 2 });
  const [frame] = server.sent();
  assert.equal(new Fields(frame.body).number(8), 2);
  assert.deepEqual(told(Code.Unavailable, "level 2 is off"), ["delayed: 7 level 2 is off"]);
  assert.deepEqual(told(Code.Unavailable, "level 2 is off"), []);
  assert.deepEqual(told(Code.Unavailable, "levels 1 and 2 are off"), ["delayed: 7 levels 1 and 2 are off"]);
  server.reconnect();
  assert.deepEqual(server.said(), ["Data:1:a"]);
  assert.deepEqual(told(Code.Unavailable, "levels 1 and 2 are off"), []);
  assert.deepEqual(told(Code.Storage, "full"), ["delayed: 13 full"]);
  server.answer(1, "a", Code.Ok, 3);
  assert.deepEqual(server.events().map(({ type, syncId }) => [type, syncId]), [["accepted", 3]]);
});

test("a business level is said where the app names one, to accounts, groups and rooms", () => {
  const server = Server.live();
  const level = (sending) => {
    server.session.submit(1, utf8("a"), { group: "friends" }, utf8("hi"), server.now, sending);
    server.session.publish(1, utf8("b"), "live", 0, utf8("hi"), server.now, sending);
    const levels = server.sent().map(({ body }) => new Fields(body).optional(8));
    assert.equal(levels[0], levels[1]);
    return levels[0];
  };
  // Zero is said: it is another thing than leaving it to the app's.
  assert.deepEqual([level(undefined), level({}), level({ level: 0 }), level({ level: 1 })], [undefined, undefined, 0, 1]);
  for (const wrong of [3, -1, 0.5, NaN, "1"]) {
    assert.throws(() => level({ level: wrong }), { name: "SubmitError", why: "level" });
  }
});

test("a channel ends alone", () => {
  const server = Server.live();
  server.submit("a");
  server.say(Kind.Close, 1, new Writer().number(1, Code.Kicked).text(2, "bye"));
  assert.deepEqual(server.events().map(({ type }) => type), ["abandoned", "closed"]);
  server.deliver(2, 1);
  assert.deepEqual(server.messages(), [1]);
  assert.throws(() => server.submit("b"), { name: "SubmitError", why: "no-channel" });
});

test("what comes for the old login of a channel number is passed over", () => {
  const server = Server.live();
  const open = (account) => server.session.open(1, { app: "shop", account });
  open("dora");
  open("erin");
  // dora's answer comes first; only then erin's.
  server.say(Kind.Opened, 1, new Writer());
  server.deliver(1, 1);
  assert.deepEqual(server.events(), []);
  server.say(Kind.Opened, 1, new Writer());
  server.deliver(1, 5);
  assert.deepEqual(server.events().map(({ type }) => type), ["opened", "message"]);
});

const closed = (code) => new Writer().number(1, code);

test("a late frame's NOT_FOUND is no answer to a login", () => {
  const server = Server.live();
  const open = (account) => server.session.open(1, { app: "shop", account, lastSyncId: 0 });
  server.say(Kind.Close, 1, closed(Code.Kicked));
  open("dora");
  open("erin");
  server.events();
  // Of an ACK that was on its way when alice was kicked.
  server.say(Kind.Close, 1, closed(Code.NotFound));
  server.say(Kind.Opened, 1, new Writer());
  server.deliver(1, 1);
  assert.deepEqual(server.events(), [], "dora's");
  server.say(Kind.Opened, 1, new Writer());
  server.deliver(1, 1);
  assert.deepEqual(server.events().map(({ type }) => type), ["opened", "message"]);
});

test("a login that is open against expectation is closed", () => {
  for (const [code, isGivenUp] of [[Code.Kicked], [Code.Unavailable], [Code.Kicked, true], [Code.Unavailable, true]]) {
    const server = Server.live();
    server.session.open(1, { app: "shop", account: "dora" });
    server.said();
    // The gateway ends alice's login before it sees that it is left, and opens dora's.
    server.say(Kind.Close, 1, closed(code));
    if (isGivenUp) {
      server.session.close(1);
    }
    server.say(Kind.Opened, 1, new Writer());
    assert.deepEqual(server.said(), ["Close:1"], "or the next OPEN would find the channel taken");
    assert.ok(!server.events().some(({ type }) => type === "opened"));
  }
});

test("a CLOSE that crosses an OPEN is no answer to it", () => {
  for (const code of [Code.Kicked, Code.Unavailable, Code.NotFound]) {
    const server = Server.live();
    const login = (account) => server.session.open(1, { app: "shop", account, lastSyncId: 0 });
    const opened = (session) => server.say(Kind.Opened, 1, new Writer().number(1, session));
    const ends = (session) => server.say(Kind.Close, 1, closed(code).number(3, session));
    login("dora");
    opened(30);
    server.events();
    // The gateway ends dora's session before it sees that she is left, for erin and then for finn.
    login("erin");
    ends(30);
    assert.deepEqual(server.events(), [], "dora is gone already");
    login("finn");
    // Once more, while erin's answer is owed.
    ends(30);
    server.said();
    opened(31);
    server.deliver(1, 1);
    assert.deepEqual(server.events(), [], "erin's");
    opened(32);
    assert.deepEqual(server.events(), [{ type: "opened", channel: 1, session: 32n }]);
    assert.deepEqual(server.said(), [], "nothing is closed that should be open");
    ends(31);
    assert.deepEqual(server.events(), [], "erin's end");
    ends(32);
    assert.deepEqual(server.events().map(({ type }) => type), ["closed"], "finn's");
  }
});

test("a full house is tried again, less and less often", () => {
  const server = Server.live();
  server.draw = 1 - 2 ** -53;
  server.session.open(3, { app: "shop", account: "dora", lastSyncId: 0 });
  server.said();
  const pauses = [];
  for (let turn = 0; turn < 12; turn++) {
    server.say(Kind.Close, 3, closed(Code.Limit));
    assert.deepEqual(server.events().map(({ code, reopens }) => [code, reopens]), [[Code.Limit, true]]);
    const since = server.now;
    for (let said = []; !said.includes("Open:3"); said = server.said()) {
      server.now = server.session.pollTimeout();
      server.session.handleTimeout(server.now);
      server.say(Kind.Pong, 0, new Writer());
    }
    pauses.push(server.now - since);
  }
  assert.deepEqual([pauses[0], pauses[1], pauses[11]], [200, 400, 30_000]);
  server.say(Kind.Opened, 3, new Writer().number(1, 9));
  assert.deepEqual(server.events().map(({ type }) => type), ["opened"]);
  // One too many of its own device: coming back would only end another.
  server.say(Kind.Close, 3, closed(Code.Limit).number(3, 9));
  assert.deepEqual(server.events().map(({ code, reopens }) => [code, reopens]), [[Code.Limit, false]]);
  assert.ok(!server.pass(50_000).includes("Open:3"));
});

test("a refusal is the answer of its own OPEN", () => {
  const server = Server.live();
  ["dora", "erin"].forEach((account) => server.session.open(1, { app: "shop", account }));
  server.say(Kind.Close, 1, closed(Code.Unauthorized));
  assert.deepEqual(server.events(), [], "dora's");
  server.say(Kind.Close, 1, closed(Code.Unauthorized));
  assert.deepEqual(server.events().map(({ type }) => type), ["closed"], "erin's");
});

const credentialOf = (frames) => frames.filter(({ kind }) => kind === Kind.Open).map(({ body }) => new Fields(body).text(3));

test("a credential that is a function is asked for at every OPEN", () => {
  const server = new Server();
  server.draw = 1 - 2 ** -53;
  let asked = 0;
  const token = () => `token ${++asked}`;
  server.session.open(1, { app: "shop", account: "alice", credential: token, lastSyncId: 0 });
  server.connect();
  assert.deepEqual(credentialOf(server.greeting).sort(), ["", "token 1"]);
  server.submit("a");
  server.reconnect();
  assert.deepEqual(credentialOf(server.greeting).sort(), ["", "token 2"]);
  // It expires while the channel is open, and the app has no other one for a while. What is to be sent is kept.
  server.say(Kind.Close, 1, closed(Code.Unauthorized));
  for (const [token, pause] of [["token 3", 200], ["token 4", 400], ["token 5", 800]]) {
    assert.deepEqual(server.events().map(({ type, reopens }) => [type, reopens]), [["closed", true]]);
    server.said();
    assert.deepEqual(server.pass(pause - 1), []);
    server.now += 1;
    server.session.handleTimeout(server.now);
    assert.deepEqual(credentialOf(server.sent()), [token]);
    if (token !== "token 5") {
      server.say(Kind.Close, 1, closed(Code.Unauthorized));
    }
  }
  server.say(Kind.Opened, 1, new Writer());
  assert.deepEqual(server.said(), ["Data:1:a"]);
});

test("one that is given once is refused once", () => {
  const server = Server.live();
  server.session.open(3, { app: "shop", account: "dora", credential: "token" });
  server.say(Kind.Close, 3, closed(Code.Unauthorized));
  assert.deepEqual(server.events().map(({ type, reopens }) => [type, reopens]), [["closed", false]]);
});

test("a credential that cannot be said ends its channel alone", () => {
  const throws = () => {
    throw new Error("logged out");
  };
  const ends = [[throws, Code.Unauthorized, /logged out/], [() => "x".repeat(2049), Code.TooLarge, /2049 bytes/]];
  for (const [next, code, reason] of ends) {
    const server = new Server();
    let token = () => undefined;
    server.session.open(1, { app: "shop", account: "alice", credential: () => token() });
    server.connect();
    assert.deepEqual(credentialOf(server.greeting), ["", ""], "the gateway may ask for none");
    server.submit("a");
    server.said();
    token = next;
    server.session.handleDisconnected(server.now);
    server.session.handleConnected(server.now);
    assert.deepEqual(server.said(), ["Connect:0", "Open:2"]);
    const [, abandoned, told] = server.events();
    assert.equal(abandoned.type, "abandoned");
    assert.match(told.reason, reason);
    assert.deepEqual([told.type, told.channel, told.code, told.reopens], ["closed", 1, code, false]);
    // On a connection that stands it is the same.
    server.session.open(3, { app: "shop", account: "dora", credential: next });
    server.session.open(4, { app: "shop", account: "erin", credential: "x".repeat(2049) });
    assert.deepEqual(server.said(), []);
    assert.deepEqual(server.events().map(({ channel, code }) => [channel, code]), [[3, code], [4, Code.TooLarge]]);
  }
});

test("what nobody has taken of the last login is not taken for the next", () => {
  const server = Server.live();
  server.session.enter(1, "live");
  ["a", "b"].forEach((id) => server.submit(id));
  const request = server.session.askGroup(1, "friends", { act: "join" }, server.now);
  server.deliver(1, 5, 5);
  server.answer(1, "a", Code.Ok, 9);
  server.answer(1, "b", Code.Unavailable);
  server.say(Kind.Group, 1, new Writer().number(1, request));
  server.say(Kind.GroupHeads, 1, new Writer().message(1, new Writer().text(1, "work").number(2, 9).present(4, 3).finish()));
  server.say(Kind.Pulled, 1, new Writer().text(4, "work").number(5, 3).number(7, 9).number(9, 9));
  server.say(Kind.RoomRefused, 1, new Writer().text(1, "live").number(2, Code.Limit));
  server.say(Kind.Close, 1, closed(Code.Kicked));
  server.session.open(1, { app: "", account: "dora" });
  server.session.open(1, { app: "shop", account: "dora" });
  // What became of messages and requests is news even now.
  assert.deepEqual(server.events().map(({ type }) => type), ["accepted", "group-answer", "abandoned"]);
  server.say(Kind.Opened, 1, new Writer());
  server.session.open(1, { app: "shop", account: "erin" });
  assert.deepEqual(server.events(), [], "dora's login is over");
});

test("what no gateway takes is never said", () => {
  const session = new Session({ device: "d" });
  session.open(1, { app: "", account: "a" });
  session.open(0, { app: "a", account: "a" });
  session.open(2, { app: "a", account: "a\n" });
  session.open(3, { app: "a", account: "ä".repeat(65) });
  assert.equal([1, 2, 3, 4].filter(() => session.pollEvent(0)?.type === "closed").length, 4);
  assert.throws(() => new Session({ device: "" }), RangeError);
  const server = Server.live();
  const submit = (id, bytes) => () => server.session.submit(1, utf8(id), "bob", new Uint8Array(bytes), 0);
  assert.throws(submit("", 1), { why: "client-id" });
  assert.throws(submit("x", 65536), { why: "too-large" });
});

test("the queue of submits is bounded", () => {
  const server = Server.live();
  for (let id = 0; id < 4096; id++) {
    server.submit(`m${id}`);
  }
  assert.throws(() => server.submit("one more"), { why: "queue-full" });
  assert.equal(server.said().length, 256, "on the wire");
});

test("a server that opens what nobody asked for is left", () => {
  const zero = Server.live();
  zero.say(Kind.Opened, 0, new Writer());
  assert.ok(zero.session.wantsHangUp, "number 0 is the connection's");

  const endless = Server.live();
  for (let said = 0; !endless.session.wantsHangUp; said += 1) {
    assert.ok(said < 64 * 1024, "what is not written does not pile up");
    endless.say(Kind.Opened, 9, new Writer());
  }
});
