// Rooms: entered again after a reconnect, reliable messages once and in order, gaps pulled.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Code } from "../dist/events.js";
import { Kind } from "../dist/frame.js";
import { Fields, Writer, utf8 } from "../dist/protobuf.js";
import { Server } from "./server.mjs";

const SPREAD_MS = 400;
const REPEAT_MS = 2000;

/** A server in whose room the session is. */
function inRoom(lastId) {
  const server = Server.live();
  server.session.enter(1, "live", lastId);
  assert.deepEqual(server.said(), [`Enter:1:live:${lastId ?? "-"}`]);
  return server;
}

function put(body, field, ids) {
  ids.forEach((id) => {
    const message = new Writer().text(1, "carol").number(2, 7).bytes(3, utf8(`m${id}`)).number(4, 1.7e12);
    body.bytes(field, message.text(5, `payload ${id}`).number(6, id).finish());
  });
  return body;
}

function batch(server, newestId, ids, numbers = new Writer()) {
  server.say(Kind.Room, 1, put(numbers.text(1, "live").number(4, newestId), 2, ids));
}

function pulled(server, ids, { throughId = 0, floorId = 1, newestId = 0, code = Code.Ok }) {
  const body = put(new Writer().text(1, "live").number(2, code), 3, ids);
  server.say(Kind.RoomPulled, 1, body.number(4, throughId).number(5, floorId).number(6, newestId));
}

/** Ids of what was heard, in order. */
function heard(server) {
  return server.events().filter(({ type }) => type === "room").flatMap(({ messages }) => messages.map(({ id }) => id));
}

test("reliable messages of a room come once and in order and are acknowledged together", () => {
  const server = inRoom();
  batch(server, 3, [0, 3, 0]);
  batch(server, 4, [3, 4]);
  assert.deepEqual(heard(server), [undefined, 3, undefined, 4], "what was said before is none of its business");
  // The draw is 0.5: half of the spread.
  assert.deepEqual(server.pass(SPREAD_MS / 2 - 1), []);
  assert.deepEqual(server.pass(1), ["RoomAck:1:live:4"]);
  assert.deepEqual(server.pass(10_000), []);
  // One that comes again had not been acknowledged in time: it is again.
  batch(server, 4, [4]);
  assert.deepEqual(heard(server), []);
  assert.deepEqual(server.pass(SPREAD_MS), ["RoomAck:1:live:4"]);
  assert.equal(server.session.roomLastId(1, "live"), 4);
});

test("the larger a room, the longer its acknowledgements take, and one is for all that came meanwhile", () => {
  for (const [online, spreadMs] of [[100_000, 10_000], [10_000_000, 20_000]]) {
    const server = inRoom();
    batch(server, 1, [1], new Writer().number(5, online));
    batch(server, 2, [2], new Writer().number(5, online));
    assert.deepEqual(server.pass(spreadMs / 2 - 1), []);
    assert.deepEqual(server.pass(1), ["RoomAck:1:live:2"]);
    assert.deepEqual(server.pass(20_000), []);
  }
});

test("acknowledgements and pulls are spread over the whole of 400 ms", () => {
  for (const [draw, at] of [[0, 0], [0.25, 100], [1 - 2 ** -53, 400]]) {
    const server = inRoom(1);
    server.draw = draw;
    batch(server, 9, [2]);
    assert.deepEqual(at === 0 ? [] : server.pass(at - 1), []);
    assert.deepEqual(server.pass(1), ["RoomAck:1:live:2", "RoomPull:1:live:2"]);
  }
});

test("a batch tells who is there, what it left out and how much it is liked", () => {
  const server = inRoom();
  batch(server, 0, [0], new Writer().number(3, 12).number(5, 100_000).number(6, 2 ** 40));
  const [message] = server.events().map(({ messages: [only], ...event }) => {
    assert.deepEqual(event, {
      type: "room", channel: 1, room: "live", dropped: 12, online: 100_000, likes: 2 ** 40,
    });
    return only;
  });
  assert.deepEqual(message, {
    id: undefined, from: "carol", type: 7, clientId: utf8("m0"), sentAtMs: 1.7e12, payload: utf8("payload 0"),
    marks: {},
  });
  // Nothing reliable: nothing to acknowledge.
  assert.deepEqual(server.pass(10_000), []);
});

test("the first batch without a reliable message decides as well", () => {
  const server = inRoom();
  batch(server, 7, []);
  batch(server, 8, [8]);
  assert.deepEqual(heard(server), [8]);
  assert.deepEqual(server.pass(SPREAD_MS), ["RoomAck:1:live:8"]);
});

test("a gap is pulled until it is closed, page by page", () => {
  const server = inRoom();
  batch(server, 1, [1]);
  batch(server, 4, [4]);
  assert.deepEqual(heard(server), [1]);
  assert.deepEqual(server.pass(SPREAD_MS / 2 - 1), []);
  // What is said meanwhile does not put it off.
  batch(server, 4, []);
  assert.deepEqual(server.pass(SPREAD_MS / 2 + 1), ["RoomAck:1:live:1", "RoomPull:1:live:1"]);
  assert.deepEqual(server.pass(REPEAT_MS - SPREAD_MS / 2 - 1), []);
  assert.deepEqual(server.pass(1), ["RoomPull:1:live:1"], "an answer that did not come is asked for again");
  pulled(server, [], { code: Code.Overloaded });
  assert.deepEqual(server.pass(REPEAT_MS), []);
  assert.deepEqual(server.pass(SPREAD_MS), ["RoomPull:1:live:1"]);
  // One that brings nothing is no reason to ask at once, over and over.
  pulled(server, [], { throughId: 1, newestId: 4 });
  assert.ok(!server.pass(REPEAT_MS - 1).includes("RoomPull:1:live:1"));
  assert.deepEqual(server.pass(1), ["RoomPull:1:live:1"]);
  // A part of it, whose beginning is past retention, with more to follow.
  pulled(server, [3], { throughId: 3, floorId: 3, newestId: 4 });
  assert.deepEqual(heard(server), [3]);
  assert.deepEqual(server.pass(0), ["RoomPull:1:live:3"]);
  pulled(server, [4], { throughId: 4, floorId: 3, newestId: 4 });
  // The answer to the pull that was said twice.
  pulled(server, [4], { throughId: 4, floorId: 3, newestId: 4 });
  assert.deepEqual(server.events().map(({ messages }) => messages.length), [1], "a duplicate is no news");
  assert.deepEqual(server.pass(50_000), ["RoomAck:1:live:4"]);
});

test("a range of which nothing is stored any more is passed over", () => {
  const server = inRoom(1);
  batch(server, 4, []);
  assert.deepEqual(server.pass(SPREAD_MS), ["RoomPull:1:live:1"]);
  pulled(server, [], { throughId: 4, newestId: 4 });
  assert.deepEqual(server.pass(10_000), ["RoomAck:1:live:4"]);
});

test("a new login enters again and says what it has", () => {
  const server = inRoom();
  batch(server, 2, [2]);
  assert.deepEqual(heard(server), [2]);
  server.session.handleDisconnected(server.now);
  assert.deepEqual(server.pass(10_000), [], "nothing is said without a connection");
  server.session.handleDialling(server.now);
  server.session.handleConnected(server.now);
  assert.deepEqual(server.said(), ["Connect:0", "Open:1", "Open:2"]);
  server.say(Kind.Connected, 0, new Writer().number(1, 1).number(3, 60_000));
  batch(server, 9, [9]);
  server.session.enter(1, "next", 0);
  server.say(Kind.Opened, 1, new Writer());
  assert.deepEqual(server.said(), ["Enter:1:live:2", "Enter:1:next:0"]);
  assert.deepEqual(heard(server), [], "what came before OPENED is another login's");
  // Something was said meanwhile: what greets the newcomer says so.
  batch(server, 3, []);
  assert.deepEqual(server.pass(SPREAD_MS), ["RoomPull:1:live:2"]);
});

test("a room is gone on from where the app says", () => {
  const server = inRoom(5);
  server.session.enter(1, "live", 3);
  assert.deepEqual(server.said(), [], "it is in it already");
  batch(server, 7, [7]);
  assert.deepEqual(heard(server), []);
  assert.deepEqual(server.pass(SPREAD_MS), ["RoomAck:1:live:5", "RoomPull:1:live:5"]);
  pulled(server, [6, 7], { throughId: 7, newestId: 7 });
  assert.deepEqual(heard(server), [6, 7]);
});

test("likes are collected for half a second", () => {
  const server = inRoom();
  for (let turn = 0; turn < 3; turn++) {
    server.session.like(1, "live", 2, server.now);
    server.session.like(1, "elsewhere", 2, server.now);
  }
  assert.deepEqual(server.pass(499), []);
  assert.deepEqual(server.pass(1), ["RoomLike:1:live:6"]);
  server.session.like(1, "live", 1, server.now);
  server.pass(499);
  server.session.like(1, "live", 1, server.now);
  assert.deepEqual(server.pass(1), ["RoomLike:1:live:2"]);
  // A login that is over says nothing.
  server.session.like(1, "live", 1, server.now);
  server.say(Kind.Close, 1, new Writer().number(1, Code.Unavailable));
  server.now += 1000;
  server.session.handleTimeout(server.now);
  assert.deepEqual(server.said(), ["Open:1"]);
  server.say(Kind.Opened, 1, new Writer());
  assert.deepEqual(server.pass(0), ["Enter:1:live:-", "RoomLike:1:live:1"]);
  server.session.like(1, "live", 5000, server.now);
  assert.deepEqual(server.pass(10_000), ["RoomLike:1:live:1000"]);
  assert.throws(() => server.session.like(1, "live", 0.5, server.now), RangeError);
});

test("a room that is left says nothing any more", () => {
  const server = inRoom();
  batch(server, 4, [1, 4]);
  server.session.leave(1, "live");
  server.session.leave(1, "live");
  assert.deepEqual(server.said(), ["Leave:1:live:-"]);
  server.events();
  batch(server, 5, [5]);
  pulled(server, [2, 3], { throughId: 5, newestId: 5 });
  assert.deepEqual([server.events(), server.pass(10_000)], [[], []]);
});

test("an answer to who was in the room before is not for who enters it again", () => {
  const server = inRoom(7);
  batch(server, 9, []);
  assert.deepEqual(server.pass(SPREAD_MS), ["RoomPull:1:live:7"]);
  server.session.leave(1, "live");
  server.session.enter(1, "live", 1);
  server.events();
  pulled(server, [8, 9], { throughId: 9, newestId: 9 });
  assert.deepEqual(server.events(), []);
  assert.equal(server.session.roomLastId(1, "live"), 1, "2 to 7 are still missing");
});

test("a room that is refused is told, and not entered again", () => {
  const server = inRoom();
  const refused = new Writer().text(1, "live").number(2, Code.Limit).text(3, "too many");
  server.say(Kind.RoomRefused, 1, refused);
  server.say(Kind.RoomRefused, 1, refused);
  assert.deepEqual(server.events(), [
    { type: "room-refused", channel: 1, room: "live", code: Code.Limit, reason: "too many" },
  ]);
  server.reconnect();
  assert.deepEqual(server.said(), []);
});

test("what no gateway takes is not entered", () => {
  const server = Server.live();
  const enter = (channel, room, lastId) => () => server.session.enter(channel, room, lastId);
  assert.throws(enter(7, "live"), { name: "RoomError", why: "no-channel" });
  assert.throws(enter(1, "a\n"), { why: "name" });
  assert.throws(enter(1, "ä".repeat(65)), { why: "name" });
  assert.throws(enter(1, "live", -1), { why: "last-id" });
  for (let room = 0; room < 64; room++) {
    server.session.enter(1, `room ${room}`);
  }
  assert.throws(enter(1, "one more"), { why: "too-many" });
  server.said();
  server.say(Kind.Close, 1, new Writer().number(1, Code.Kicked));
  assert.throws(enter(1, "live"), { why: "no-channel" });
});

test("what is said in a room is kept until it is answered", () => {
  const server = Server.live();
  server.session.publish(1, utf8("a"), "live", 5, utf8("hi"), server.now);
  const [frame] = server.sent();
  const submit = new Fields(frame.body);
  assert.deepEqual([1, 2, 3, 5].map((field) => submit.text(field)), ["a", "", "hi", "live"]);
  assert.equal(submit.number(6), 5);
  server.answer(1, "a", Code.Overloaded);
  server.reconnect();
  assert.deepEqual(server.said(), ["Data:1:a"]);
  server.answer(1, "a", Code.Ok);
  assert.deepEqual(server.events().map(({ type, syncId }) => [type, syncId]), [["accepted", 0]]);
  const publish = (room, type) => () => server.session.publish(1, utf8("b"), room, type, utf8("hi"), server.now);
  assert.throws(publish("", 0), { why: "name" });
  assert.throws(publish("live", 2 ** 32), { why: "room-type" });
});

test("what was heard for a login that is over is not handed over", () => {
  const server = inRoom();
  batch(server, 1, [1]);
  server.session.close(1);
  assert.deepEqual(server.events(), []);
});
