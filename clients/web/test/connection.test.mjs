import assert from "node:assert/strict";
import { test } from "node:test";

import { FrameReader, Kind } from "../dist/frame.js";
import { fullJitter } from "../dist/jitter.js";
import { Fields, WireError, Writer, concat, utf8 } from "../dist/protobuf.js";
import { Server } from "./server.mjs";

const ANSWER_MS = 5000;
/** Bytes that wait to be written above which nothing large is put behind them. */
const UNSENT = 64 * 1024;

test("a try that fails is told, with the pause before the next one", () => {
  const server = new Server({ random: () => 1 - 2 ** -53 });
  for (const retryInMs of [100, 200]) {
    server.session.handleDialling(server.now);
    server.session.handleDisconnected(server.now);
    assert.deepEqual(server.events(), [{ type: "not-connected", retryInMs }]);
    assert.ok(!server.session.wantsConnection(server.now + retryInMs - 1));
    server.now += retryInMs;
    assert.ok(server.session.wantsConnection(server.now));
  }
  // One that nobody answers.
  server.session.handleDialling(server.now);
  server.now += 10_000;
  server.session.handleTimeout(server.now);
  assert.ok(server.session.wantsHangUp);
  server.session.handleDisconnected(server.now);
  assert.deepEqual(server.events(), [{ type: "not-connected", retryInMs: 400 }]);
  // One that is made, and breaks, is told of as ever.
  server.session.handleDialling(server.now);
  server.session.handleConnected(server.now);
  server.session.handleDisconnected(server.now);
  assert.deepEqual(server.events(), [{ type: "disconnected", reason: { why: "hung-up" } }]);
});

test("full jitter lies between zero and a bound that doubles up to its cap", () => {
  for (const [attempt, bound] of [[0, 100], [1, 200], [5, 3200], [9, 30_000], [2000, 30_000]]) {
    assert.equal(fullJitter(100, 30_000, attempt, () => 0), 0);
    assert.equal(fullJitter(100, 30_000, attempt, () => 1 - 2 ** -53), bound);
    const draws = Array.from({ length: 1000 }, () => fullJitter(100, 30_000, attempt, Math.random));
    assert.ok(draws.every((pause) => Number.isInteger(pause) && pause >= 0 && pause <= bound));
    assert.ok(new Set(draws).size > 30, "they are spread");
  }
});

test("a gateway that is away is tried less and less often, and a lasting connection forgets it", () => {
  const server = new Server();
  server.draw = 1 - 2 ** -53;
  const pauses = [];
  for (let attempt = 0; attempt < 10; attempt++) {
    server.session.handleDialling(server.now);
    server.session.handleDisconnected(server.now);
    pauses.push(server.session.pollTimeout() - server.now);
    assert.equal(server.session.wantsConnection(server.session.pollTimeout() - 1), false);
    server.now = server.session.pollTimeout();
    assert.equal(server.session.wantsConnection(server.now), true);
  }
  assert.deepEqual(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000]);
  for (const [lastsMs, pause] of [[4999, 30_000], [5000, 100]]) {
    server.connect();
    server.now += lastsMs;
    server.session.handleDisconnected(server.now);
    assert.equal(server.session.pollTimeout() - server.now, pause);
    server.now += pause;
  }
});

test("GOAWAY's window is honoured", () => {
  for (const [draw, pause] of [[0, 2000], [0.5, 5000], [1 - 2 ** -53, 8000]]) {
    const server = Server.live();
    server.draw = draw;
    const away = new Writer().number(1, 12).number(2, 2000).number(3, 8000).text(4, "other");
    server.say(Kind.GoAway, 0, away);
    assert.ok(server.session.wantsHangUp);
    assert.deepEqual(server.events(), [
      { type: "disconnected", reason: { why: "sent-away", code: 12, alternate: "other" } },
    ]);
    server.session.handleDisconnected(server.now);
    assert.equal(server.session.pollTimeout() - server.now, pause);
    assert.deepEqual(server.events(), []);
  }
  // A wrong number does not silence a device for weeks.
  const server = Server.live();
  server.say(Kind.GoAway, 0, new Writer().number(2, 4e9).number(3, 4e9));
  server.session.handleDisconnected(server.now);
  assert.equal(server.session.pollTimeout() - server.now, 3_600_000);
});

test("a GOAWAY that names no window is followed by the usual pauses", () => {
  for (const [min, max] of [[0, 0], [0, 99], [50, 0]]) {
    const server = Server.live();
    server.draw = 1 - 2 ** -53;
    const pauses = [];
    for (let login = 0; login < 5; login++) {
      server.say(Kind.GoAway, 0, new Writer().number(2, min).number(3, max));
      server.session.handleDisconnected(server.now);
      pauses.push(server.session.pollTimeout() - server.now);
      server.now = server.session.pollTimeout();
      server.connect();
    }
    assert.deepEqual(pauses, [100, 200, 400, 800, 1600], `${min} to ${max}`);
  }
});

/** Tries that fail until the next one would come in half a minute. */
test("what ends the connection is not heard on a channel", () => {
  for (const [kind, body] of [
    [Kind.GoAway, new Writer().number(2, 60_000).number(3, 60_000)],
    [Kind.Error, new Writer().number(1, 3)],
  ]) {
    const server = new Server();
    server.connect();
    server.say(kind, 1, body);
    assert.deepEqual(server.events(), [{ type: "disconnected", reason: { why: "garbled" } }]);
  }
});

function stayAway(server) {
  for (let attempt = 0; attempt < 10; attempt++) {
    server.now = Math.max(server.now, server.session.pollTimeout());
    server.session.handleDialling(server.now);
    server.session.handleDisconnected(server.now);
  }
  assert.equal(server.session.pollTimeout() - server.now, 30_000);
}

test("when the network is back a try comes soon, and its failure counts as ever", () => {
  for (const [draw, pause] of [[0, 0], [0.5, 50], [1 - 2 ** -53, 100]]) {
    const server = new Server();
    server.draw = 1 - 2 ** -53;
    stayAway(server);
    server.draw = draw;
    server.now += 7000;
    server.session.handleNetworkChange(server.now);
    server.draw = 0;
    // Told again, it is the same news.
    server.session.handleNetworkChange(server.now);
    assert.equal(server.session.pollTimeout() - server.now, pause);
    server.now += pause;
    assert.ok(server.session.wantsConnection(server.now));
    server.draw = 1 - 2 ** -53;
    server.session.handleDialling(server.now);
    server.session.handleDisconnected(server.now);
    assert.equal(server.session.pollTimeout() - server.now, 30_000);
  }
});

test("whoever says all the time that the network is back does not try all the time", () => {
  const server = new Server();
  server.draw = 1 - 2 ** -53;
  stayAway(server);
  let tries = 0;
  for (const end = server.now + 60_000; server.now < end; server.now += 10) {
    server.draw = (server.now % 70) / 70;
    server.session.handleNetworkChange(server.now);
    server.draw = 1 - 2 ** -53;
    if (server.session.wantsConnection(server.now)) {
      tries += 1;
      server.session.handleDialling(server.now);
      server.session.handleDisconnected(server.now);
    }
  }
  assert.equal(tries, 12, "one in five seconds");
});

test("a network that is back brings nobody back before a GOAWAY's time", () => {
  const server = Server.live();
  server.say(Kind.GoAway, 0, new Writer().number(2, 60_000).number(3, 60_000));
  server.session.handleDisconnected(server.now);
  server.session.handleNetworkChange(server.now);
  assert.equal(server.session.pollTimeout() - server.now, 60_000);
  // It is over with the try that it told of.
  server.now += 60_000;
  server.draw = 1 - 2 ** -53;
  stayAway(server);
  server.session.handleNetworkChange(server.now);
  assert.equal(server.session.pollTimeout() - server.now, 100);
});

test("when the network is another one a connection is asked at once, and left when it is dead", () => {
  const server = Server.live();
  server.now += 1000;
  const change = () => server.session.handleNetworkChange(server.now);
  change();
  assert.deepEqual(server.said(), ["Ping:0"]);
  change();
  assert.deepEqual(server.said(), [], "it is asked already");
  server.say(Kind.Pong, 0, new Writer());
  change();
  assert.deepEqual(server.said(), ["Ping:0"]);
  assert.deepEqual(server.pass(29_999), []);
  assert.ok(!server.session.wantsHangUp);
  server.pass(1);
  assert.ok(server.session.wantsHangUp);
  assert.deepEqual(server.events(), [{ type: "disconnected", reason: { why: "silent" } }]);
});

test("an idle session says PING in time, and leaves when nothing answers", () => {
  const server = Server.live();
  assert.deepEqual(server.pass(53_999), []);
  assert.deepEqual(server.pass(1), ["Ping:0"]);
  server.say(Kind.Pong, 0, new Writer());
  assert.deepEqual(server.pass(54_000), ["Ping:0"]);
  assert.deepEqual(server.pass(29_999), []);
  assert.ok(!server.session.wantsHangUp);
  server.pass(1);
  assert.ok(server.session.wantsHangUp);
  assert.deepEqual(server.events(), [{ type: "disconnected", reason: { why: "silent" } }]);
});

test("the client's wish shortens the heartbeat, and PING is answered with the same bytes", () => {
  const server = Server.live({ heartbeatMaxMs: 10_000 });
  assert.equal(new Fields(server.greeting[0].body).number(5), 10_000);
  assert.deepEqual(server.pass(9000), ["Ping:0"]);
  const text = new Writer().text(1, "beat");
  server.say(Kind.Ping, 0, text);
  const [pong] = server.sent();
  assert.deepEqual([pong.kind, [...pong.body]], [Kind.Pong, [...text.finish()]]);
});

test("what cannot be written does not pile up where it is asked for either", () => {
  const server = Server.live();
  const members = Array.from({ length: 200 }, (_, number) => `${number}`.padStart(120, "0"));
  for (let request = 0; request < 60; request++) {
    server.session.askGroup(1, "friends", { act: "create", members }, server.now);
  }
  // The driver has taken it and cannot write it.
  const backlog = server.session.pollTransmit(server.now).length;
  assert.ok(backlog >= UNSENT && backlog < 2 * UNSENT, `${backlog} bytes of 60 requests`);
  server.session.handleBacklog(backlog, server.now);
  let more = 0;
  for (let turn = 0; turn < 20; turn++) {
    server.now += ANSWER_MS;
    server.session.handleTimeout(server.now);
    for (let ping = 0; ping < 100; ping++) {
      server.say(Kind.Ping, 0, new Writer().text(1, "beat"));
    }
    more += server.session.pollTransmit(server.now)?.length ?? 0;
    server.session.handleBacklog(backlog + more, server.now);
  }
  assert.ok(!server.session.wantsHangUp);
  assert.ok(more < 1000, `${more} bytes on top of ${backlog}`);
  server.session.handleBacklog(0, server.now);
  server.sent();
  server.say(Kind.Ping, 0, new Writer());
  assert.deepEqual(server.said(), ["Pong:0"], "whoever reads again is answered again");
  server.now += ANSWER_MS;
  server.session.handleTimeout(server.now);
  assert.ok(server.said().includes("Group:1"), "and asked again");
});

/** Submits far more than the network takes at once. */
function submitMuch(server, channel = 1, count = 100) {
  for (let id = 0; id < count; id++) {
    server.session.submit(channel, utf8(`${channel}:${id}`), "carol", new Uint8Array(60_000), server.now);
  }
}

/** A driver over an uplink of so many bytes a millisecond, to a server that answers nothing but PING. What it wrote. */
function writeSlowly(server, ms, rate) {
  const frames = [];
  const reader = new FrameReader();
  let unsent = new Uint8Array(0);
  for (const end = server.now + ms; server.now < end && !server.session.wantsHangUp; ) {
    server.now = Math.min(Math.max(server.session.pollTimeout(), server.now + 1), server.now + 500, end);
    const written = unsent.subarray(0, Math.round((server.now - (server.wroteMs ?? server.now)) * rate));
    server.wroteMs = server.now;
    unsent = unsent.slice(written.length);
    server.session.handleBacklog(unsent.length, server.now);
    server.session.handleTimeout(server.now);
    const bytes = server.session.pollTransmit(server.now);
    if (bytes !== undefined) {
      unsent = concat([unsent, bytes]);
      server.session.handleBacklog(unsent.length, server.now);
    }
    reader.push(written, ({ kind, channel }) => frames.push({ kind, channel }) > 0);
    if (frames.at(-1)?.kind === Kind.Ping && written.length > 0) {
      server.say(Kind.Pong, 0, new Writer());
    }
  }
  return frames;
}

test("a connection that is slow is not taken for dead", () => {
  const server = Server.live({ heartbeatMaxMs: 10_000 });
  submitMuch(server);
  const frames = writeSlowly(server, 300_000, 10);
  assert.ok(!server.session.wantsHangUp);
  assert.ok(frames.filter(({ kind }) => kind === Kind.Ping).length > 10);
});

test("one that takes nothing any more is", () => {
  const server = Server.live({ heartbeatMaxMs: 10_000 });
  submitMuch(server);
  writeSlowly(server, 9000 + 5000 + 1000, 0);
  assert.ok(server.session.wantsHangUp);
});

test("what steers waits for no more than is being written, and all of it goes", () => {
  const server = Server.live();
  submitMuch(server);
  const bytes = server.session.pollTransmit(server.now);
  assert.ok(bytes.length < 2 * UNSENT, `${bytes.length}`);
  server.session.handleBacklog(bytes.length, server.now);
  server.deliver(2, 1);
  server.messages();
  server.now += 100;
  server.session.handleTimeout(server.now);
  assert.deepEqual(server.said(), ["Ack:2:1"]);
  // Nothing but the look at the socket wakes it.
  assert.ok(server.session.pollTimeout() <= server.now + 20);
  let said = 2;
  for (let turn = 0; turn < 100; turn++) {
    server.session.handleBacklog(0, server.now);
    server.session.handleTimeout(server.now);
    const sent = server.sent();
    said += sent.length;
    server.session.handleBacklog(sent.reduce((sum, { body }) => sum + body.length, 0), server.now);
  }
  assert.equal(said, 100);
});

test("no channel takes the room of another", () => {
  const server = Server.live();
  [1, 2].forEach((channel) => submitMuch(server, channel));
  const frames = writeSlowly(server, 100_000, 10);
  for (const channel of [1, 2]) {
    assert.ok(frames.filter((frame) => frame.channel === channel).length >= 5, `${channel}`);
  }
});

test("what is sent once waits behind nothing that cannot be written", () => {
  const server = Server.live();
  submitMuch(server);
  const once = () => server.session.submit(1, utf8("t"), "carol", utf8(""), server.now, { class: "transient" });
  assert.throws(once, { why: "queue-full" });
  server.sent();
  once();
  assert.deepEqual(server.said(), ["Data:1:t"]);
});

test("a connection that never says CONNECTED is given up", () => {
  const server = new Server();
  server.session.handleDialling(server.now);
  server.session.handleConnected(server.now);
  server.pass(9999);
  assert.ok(!server.session.wantsHangUp);
  server.pass(1);
  assert.ok(server.session.wantsHangUp);
});

test("what no server sends ends the connection", () => {
  const garbage = [
    (server) => server.say(Kind.Connect, 0, new Writer()),
    (server) => server.say(Kind.Connected, 0, new Writer()),
    (server) => server.say(0x80, 0, new Writer()),
    (server) => server.session.handleBytes(Uint8Array.of(9, 0, 0, 0, 0, 0, 0, 17), server.now),
    (server) => server.session.handleBytes(Uint8Array.of(4, 0, 0, 1, 0, 0, 0, 1, 0x0a), server.now),
    (server) => server.session.handleBytes(Uint8Array.of(6, 0, 0, 1, 255, 255, 255, 255), server.now),
  ];
  for (const say of garbage) {
    const server = Server.live();
    say(server);
    assert.deepEqual(server.events(), [{ type: "disconnected", reason: { why: "garbled" } }]);
  }
});

test("kinds of features that this client does not have are passed over", () => {
  const server = Server.live();
  for (const kind of [0x20, 0x2b, 0x7f]) {
    server.say(kind, 1, new Writer().text(1, "of a later server").text(2, "long".repeat(2000)));
  }
  assert.deepEqual([server.events(), server.said()], [[], []]);
});

test("numbers of the wire: long ones survive, overlong and cut ones are refused", () => {
  const large = Number.MAX_SAFE_INTEGER;
  assert.equal(new Fields(new Writer().number(1, large).finish()).number(1), large);
  const session = Uint8Array.of(9, 1, 2, 3, 4, 5, 6, 7, 0xff);
  assert.equal(new Fields(session).bigint(1), 0xff07060504030201n);
  for (const bytes of [[8], [8, 0x80], [8, ...Array(10).fill(0x80), 1], [10, 5, 1], [9, 1], [11]]) {
    assert.throws(() => new Fields(Uint8Array.from(bytes)), WireError, `${bytes}`);
  }
  assert.throws(() => new Fields(Uint8Array.of(8, ...Array(9).fill(0xff), 1)).number(1), WireError);
});
