// Groups: entries by three ways once and in order, gaps pulled, positions told and kept, requests asked until answered.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Code } from "../dist/events.js";
import { GroupRole } from "../dist/groups.js";
import { Kind } from "../dist/frame.js";
import { Fields, Writer, utf8 } from "../dist/protobuf.js";
import { Server, delivery } from "./server.mjs";

const ACK_MS = 20;
const ANSWER_MS = 5000;
const PULL_RETRY_MS = 1000;
const CONVERSATIONS_MAX = 1024;

/** A server whose first login holds these positions. */
function holding(groupPositions, options) {
  const server = new Server(options);
  server.session.open(1, { app: "shop", account: "alice", lastSyncId: 0, groupPositions });
  server.connect();
  server.said();
  return server;
}

/** An entry pushed from the group's own timeline. */
function push(server, group, syncId, payload, isEvent = false) {
  const entry = new Writer().text(1, group).number(2, syncId).text(3, "carol").bytes(4, utf8(`m${syncId}`));
  entry.number(5, 1.7e12).number(6, 1).bytes(7, payload ?? utf8(`payload ${syncId}`)).number(8, Number(isEvent));
  server.say(Kind.GroupDelivery, 1, entry);
}

/** A copy of an entry in the account's own timeline. */
function copy(server, syncId, group, groupSyncId) {
  server.say(Kind.Data, 1, delivery(syncId).text(7, group).number(8, groupSyncId));
}

function pulled(server, group, ids, { after = 0, through = ids.at(-1) ?? 0, head = through, code = Code.Ok } = {}) {
  const body = new Writer().number(1, server.pulls.get(group)).number(2, code).text(4, group).number(5, after);
  ids.forEach((id) => body.message(6, delivery(id).text(7, group).finish()));
  server.say(Kind.Pulled, 1, body.number(7, head).number(8, 1).number(9, through));
}

/** `heads`: group, head, what the router knows is acknowledged, priority. */
function tell(server, ...heads) {
  const body = new Writer();
  for (const [group, head, acked, priority = 0] of heads) {
    const one = new Writer().text(1, group).number(2, head).number(3, 1);
    body.message(1, (acked === undefined ? one : one.present(4, acked)).number(5, priority).finish());
  }
  server.say(Kind.GroupHeads, 1, body);
}

/** What the app was told of groups, in short. */
function told(server) {
  return server.events().map((event) => {
    switch (event.type) {
      case "group-message":
        return `${event.group} ${event.syncId}`;
      case "group-expired":
        return `${event.group} ${event.first} to ${event.last} expired`;
      case "message":
        return `message ${event.syncId}`;
      case "group-left":
        return `${event.group} left`;
      default:
        return event.type;
    }
  });
}

test("a place that is not known is asked for, and what is behind it handed over", () => {
  const server = holding({});
  push(server, "friends", 7);
  assert.deepEqual(told(server), []);
  assert.deepEqual(server.said(), ["Pull:1:friends:-"]);
  pulled(server, "friends", [6, 7], { after: 5 });
  assert.deepEqual(told(server), ["friends 6", "friends 7"]);
  assert.deepEqual(server.pass(ACK_MS), ["GroupAck:1:friends=7"]);
  assert.deepEqual(server.session.groupPositions(1), { friends: 7 });
});

test("an entry comes once, whichever way", () => {
  const server = holding({ friends: 0, work: 3 });
  push(server, "friends", 1);
  copy(server, 1, "friends", 1);
  copy(server, 2, "friends", 2);
  push(server, "friends", 2);
  push(server, "work", 4);
  assert.deepEqual(told(server), ["friends 1", "friends 2", "work 4"]);
  // One frame for all of them; the copies are done with in the own timeline as well.
  assert.deepEqual(server.pass(1000), ["Ack:1:2", "GroupAck:1:friends=2,work=4"]);
  push(server, "friends", 2);
  assert.deepEqual(told(server), []);
  assert.deepEqual(server.pass(1000), ["GroupAck:1:friends=2"], "who sends a duplicate does not know");
});

test("what a message holds is handed over", () => {
  const server = holding({ friends: 0 });
  push(server, "friends", 1);
  copy(server, 1, "friends", 2);
  const events = server.events();
  const parts = { type: "group-message", channel: 1, group: "friends", from: "carol", sentAtMs: 1.7e12, event: undefined, marks: {} };
  assert.deepEqual(events, [
    { ...parts, syncId: 1, clientId: utf8("m1"), payload: utf8("payload 1") },
    { ...parts, syncId: 2, clientId: utf8("m1"), payload: utf8("payload 1") },
  ]);
});

test("a gap is pulled, page by page, and what will not come is told", () => {
  const server = holding({ friends: 1 });
  push(server, "friends", 9);
  assert.deepEqual(server.said(), ["Pull:1:friends:1"]);
  push(server, "friends", 10);
  assert.deepEqual(server.said(), [], "it is on its way");
  pulled(server, "friends", [4, 5], { after: 1, head: 10 });
  assert.deepEqual(told(server), ["friends 2 to 3 expired", "friends 4", "friends 5"]);
  assert.deepEqual(server.said(), ["Pull:1:friends:5"]);
  const first = server.pulls.get("friends");
  assert.deepEqual(server.pass(ANSWER_MS - 1), ["GroupAck:1:friends=5"]);
  assert.ok(server.pass(1).includes("Pull:1:friends:5"), "no answer: once more");
  pulled({ say: server.say.bind(server), pulls: new Map([["friends", first]]) }, "friends", [6], { after: 5 });
  assert.deepEqual(told(server), [], "the answer to one that was given up");
  pulled(server, "friends", [], { after: 5, code: Code.Overloaded });
  assert.deepEqual(server.pass(999), []);
  assert.deepEqual(server.pass(1), ["Pull:1:friends:5"]);
  pulled(server, "friends", [6, 7, 8, 9, 10], { after: 5 });
  assert.deepEqual(told(server), [6, 7, 8, 9, 10].map((id) => `friends ${id}`));
  push(server, "friends", 11);
  assert.deepEqual(told(server), ["friends 11"]);
  assert.deepEqual(server.pass(10_000), ["GroupAck:1:friends=11"]);
});

test("after a login only what is new is pulled, a few at a time, the most important first", () => {
  const server = holding({ quiet: 3, known: 8, behind: 2 });
  tell(server, ["a", 5, 5, 1], ["b", 4, 1, 1], ["c", 4, 1, 1], ["known", 8, 3], ["d", 4, undefined, 9], ["behind", 9, 1],
    ["e", 4, 1, 5]);
  assert.deepEqual(server.said(), ["Pull:1:d:-", "Pull:1:e:1", "Pull:1:b:1", "Pull:1:c:1"]);
  pulled(server, "d", [4], { after: 3 });
  assert.deepEqual(server.said(), ["Pull:1:behind:2"]);
  pulled(server, "b", [2, 3, 4], { after: 1 });
  assert.deepEqual(server.said(), []);
  assert.deepEqual(told(server), ["d 4", "b 2", "b 3", "b 4"]);
  // What the router knows too little of is acknowledged again.
  assert.deepEqual(server.pass(ACK_MS), ["GroupAck:1:known=8,behind=2,b=4,d=4"]);
  tell(server, ["known", 8, 3]);
  assert.deepEqual(server.pass(ACK_MS), ["GroupAck:1:known=8"]);
});

test("a GROUP_ACK names no more than 24", () => {
  const server = holding({});
  for (let group = 0; group < 30; group++) {
    tell(server, [`g${group}`, 1, 0]);
    server.said();
    push(server, `g${group}`, 1);
  }
  server.events();
  const lengths = server.pass(ACK_MS).map((ack) => ack.split(",").length);
  assert.deepEqual(lengths, [24, 6]);
});

test("nothing is acknowledged before the app has it, and copies wait for nobody", () => {
  const server = holding({ friends: 0 }, { autoAcknowledge: false });
  server.deliver(1, 1);
  copy(server, 2, "friends", 1);
  copy(server, 3, "friends", 2);
  server.deliver(1, 4);
  assert.deepEqual(told(server), ["message 1", "friends 1", "friends 2", "message 4"]);
  assert.deepEqual(server.pass(1000), []);
  server.session.acknowledgeGroup(1, "friends", 1, server.now);
  server.session.acknowledge(1, 1, server.now);
  assert.deepEqual(server.pass(1000), ["Ack:1:3", "GroupAck:1:friends=1"]);
  assert.equal(server.session.lastSyncId(1), 3);
  server.session.acknowledgeGroup(1, "friends", 99, server.now);
  server.session.acknowledgeGroup(1, "others", 99, server.now);
  assert.deepEqual(server.pass(1000), ["GroupAck:1:friends=2"]);
  assert.deepEqual(server.session.groupPositions(1), { friends: 2 });
});

test("a copy that the app has gone past is no step back, and the first one may be anywhere", () => {
  const server = holding({ friends: 0 }, { autoAcknowledge: false });
  server.deliver(1, 1);
  copy(server, 2, "friends", 1);
  server.deliver(1, 3);
  server.session.acknowledge(1, 3, server.now);
  assert.deepEqual(server.pass(1000), ["Ack:1:3"]);
  server.session.open(1, { app: "shop", account: "alice", groupPositions: { friends: 0 } });
  server.say(Kind.Opened, 1, new Writer());
  server.said();
  copy(server, 7, "friends", 1);
  assert.deepEqual(server.pass(1000), ["Ack:1:7"]);
});

test("a range has ends: what came meanwhile, what will not come, what it says of the place", () => {
  const server = holding({ friends: 0, work: 2, away: 4 }, { autoAcknowledge: false });
  push(server, "friends", 2);
  assert.deepEqual(server.said(), ["Pull:1:friends:0"]);
  push(server, "friends", 1);
  push(server, "friends", 2);
  push(server, "friends", 4);
  pulled(server, "friends", [1, 2], { through: 4 });
  assert.deepEqual(told(server), ["friends 1", "friends 2", "friends 3 to 4 expired"]);
  assert.deepEqual(server.said(), [], "nothing is missing any more");
  tell(server, ["work", 4, 2], ["new", 9]);
  assert.deepEqual(server.said(), ["Pull:1:work:2", "Pull:1:new:-"]);
  pulled(server, "work", [], { through: 4 });
  pulled(server, "new", [], { after: 9, through: 9 });
  assert.deepEqual(told(server), ["work 3 to 4 expired"]);
  // Only where the app works on nothing before it is the gap processed.
  assert.deepEqual(server.session.groupPositions(1), { friends: 0, work: 4, away: 4, new: 9 });

  push(server, "friends", 6);
  server.said();
  pulled(server, "friends", [], { code: Code.Storage });
  push(server, "away", 9);
  assert.deepEqual(server.said(), ["Pull:1:away:4"], "what was refused waits for its time");
});

test("a gap that closes by itself is not pulled", () => {
  const server = holding({ friends: 4 });
  tell(server, ["friends", 6, 4]);
  assert.deepEqual(server.said(), ["Pull:1:friends:4"]);
  pulled(server, "friends", [], { code: Code.Overloaded });
  push(server, "friends", 5);
  push(server, "friends", 6);
  assert.deepEqual(told(server), ["friends 5", "friends 6"]);
  assert.deepEqual(server.pass(PULL_RETRY_MS * 2), ["GroupAck:1:friends=6"]);
});

test("a router that announces what it does not hand out is not stormed", () => {
  const server = holding({ friends: 4 });
  tell(server, ["friends", 9, 4]);
  let asked = 0;
  for (let turn = 0; turn < 100; turn++) {
    for (const said of [...server.said(), ...server.pass(PULL_RETRY_MS / 10)]) {
      if (said.startsWith("Pull")) {
        asked += 1;
        pulled(server, "friends", [], { after: 4, through: 4 });
      }
    }
  }
  assert.ok(asked >= 2 && asked <= 11, `${asked} in ten seconds`);
  // What it hands out after all is followed at once by what is behind that.
  server.pass(PULL_RETRY_MS);
  pulled(server, "friends", [5], { after: 4, head: 9 });
  assert.deepEqual(server.said(), ["Pull:1:friends:5"]);
});

test("a range that ends a membership ends there", () => {
  const server = holding({ friends: 1 });
  push(server, "friends", 9);
  server.said();
  const body = new Writer().number(1, server.pulls.get("friends")).text(4, "friends").number(5, 1);
  const last = delivery(2).text(7, "friends").bytes(6, change({ removed: ["alice"] })).number(9, 1);
  server.say(Kind.Pulled, 1, body.message(6, last.finish()).number(7, 9).number(9, 5));
  assert.deepEqual([told(server), server.pass(1000)], [["friends 2", "friends left"], ["GroupAck:1:friends=2"]]);
});

test("a new connection goes on with what was under way", () => {
  const server = holding({ friends: 1, work: 0 });
  push(server, "friends", 2);
  server.events();
  assert.deepEqual(server.pass(ACK_MS), ["GroupAck:1:friends=2"]);
  push(server, "friends", 5);
  assert.deepEqual(server.said(), ["Pull:1:friends:2"]);
  server.session.handleDisconnected(server.now);
  assert.deepEqual(server.pass(10_000), []);
  server.session.handleDialling(server.now);
  server.session.handleConnected(server.now);
  server.said();
  server.say(Kind.Connected, 0, new Writer().number(1, 1).number(3, 60_000));
  push(server, "friends", 3);
  tell(server, ["friends", 9, 2]);
  assert.deepEqual([server.pass(1000), told(server)], [[], ["disconnected", "connected"]], "another login's");
  server.say(Kind.Opened, 1, new Writer());
  assert.deepEqual(server.said(), ["Pull:1:friends:2"]);
  // Whether the last connection's word was heard the router tells.
  push(server, "work", 1);
  assert.deepEqual(told(server), ["opened", "work 1"]);
  assert.deepEqual(server.pass(ACK_MS), ["GroupAck:1:work=1"]);
  tell(server, ["friends", 5, 1]);
  assert.deepEqual(server.pass(ACK_MS), ["GroupAck:1:friends=2"]);
});

test("closing a channel says what is processed", () => {
  const server = holding({ friends: 1 });
  push(server, "friends", 2);
  server.session.pollEvent(server.now);
  push(server, "friends", 3);
  server.session.close(1);
  assert.deepEqual([server.said(), server.events()], [["GroupAck:1:friends=2", "Close:1"], []]);
});

/** A change of a group. */
function change({ by = "carol", set = [], removed = [], dissolved = 0 }) {
  const event = new Writer().text(1, by).text(3, "Friends");
  set.forEach(([account, role]) => event.message(5, new Writer().text(1, account).number(2, role).finish()));
  removed.forEach((account) => event.text(6, account));
  return event.number(7, dissolved).finish();
}

test("changes are read, and the end of a membership is told", () => {
  const server = holding({ friends: 0, work: 0, away: 0 });
  push(server, "friends", 1, change({ set: [["bob", 2], ["eve", 9]], removed: ["dora"] }), true);
  const [{ event }] = server.events();
  assert.deepEqual(event, {
    by: "carol", created: false, title: "Friends", isOpen: false, dissolved: false, removed: ["dora"],
    set: [{ account: "bob", role: GroupRole.Admin }, { account: "eve", role: GroupRole.None }],
  });
  // What is no change to read is passed on like any other: it would come again and again.
  push(server, "friends", 2, Uint8Array.of(0xff), true);
  assert.deepEqual(told(server), ["friends 2"]);
  push(server, "friends", 3, change({ removed: ["alice"] }), true);
  push(server, "work", 1, change({ dissolved: 1 }), true);
  push(server, "away", 2);
  server.said();
  pulled(server, "away", [], { code: Code.NotFound });
  assert.deepEqual(told(server), ["friends 3", "friends left", "work 1", "work left", "away left"]);
  assert.deepEqual(server.session.groupPositions(1), {});
});

test("a group that is left is told once, and its last entry acknowledged", () => {
  const server = holding({ friends: 4, work: 2 }, { autoAcknowledge: false });
  push(server, "friends", 5, change({ removed: ["alice"] }), true);
  assert.deepEqual(told(server), ["friends 5", "friends left"]);
  // Or the router would tell its head again after 5, 10 and 20 s, and each time there would be no such group.
  assert.deepEqual(server.pass(1000), ["GroupAck:1:friends=5"]);
  assert.deepEqual(server.session.groupPositions(1), { work: 2 });
  push(server, "work", 3, change({ dissolved: 1 }), true);
  server.events();
  server.session.close(1);
  assert.deepEqual(server.said(), ["GroupAck:1:work=3", "Close:1"]);
  // On the next connection nothing was pushed that waits for it.
  const other = holding({ friends: 4, work: 2 });
  push(other, "friends", 5, change({ removed: ["alice"] }), true);
  other.reconnect();
  push(other, "work", 3);
  other.events();
  assert.deepEqual(other.pass(1000), ["GroupAck:1:work=3"]);
});

/** Somebody who holds as many groups as find a place, each up to its fifth entry. */
function inManyGroups(options) {
  const groups = Array.from({ length: CONVERSATIONS_MAX }, (_, number) => `g${number}`);
  return { server: holding(Object.fromEntries(groups.map((group) => [group, 5])), options), groups };
}

test("groups that were left while the device was away take no place from new ones", () => {
  const { server, groups } = inManyGroups();
  groups.slice(1).forEach((group) => tell(server, [group, 5, 5]));
  assert.deepEqual(server.said(), []);
  push(server, "team", 9);
  assert.deepEqual(server.said(), ["GroupAck:1:g0=5", "Pull:1:team:-"], "what is forgotten is told before");
  pulled(server, "team", [9], { after: 8 });
  assert.deepEqual(told(server), ["team 9"]);
  const held = server.session.groupPositions(1);
  assert.deepEqual([Object.keys(held).length, held.team, held.g0], [CONVERSATIONS_MAX, 9, undefined]);
  // One that is back goes on where the router knows it to be.
  tell(server, ["g0", 6, 5]);
  assert.ok(server.said().includes("Pull:1:g0:5"));
});

test("a server that speaks of ever new groups and does not read fills nothing", () => {
  const { server } = inManyGroups();
  for (let number = 0; number < 10_000; number++) {
    tell(server, [String(number).padStart(120, "0"), 5, 5]);
  }
  const waiting = server.session.pollTransmit(server.now).length;
  assert.ok(waiting < 1024 * 1024 + 4096, `${waiting}`);
  assert.equal(Object.keys(server.session.groupPositions(1)).length, CONVERSATIONS_MAX);
});

test("a group for which there is no place waits for one, and not for the next login", () => {
  const { server, groups } = inManyGroups({ autoAcknowledge: false });
  // The app works on an entry of every group there is a place for.
  groups.forEach((group) => push(server, group, 6));
  assert.equal(told(server).length, CONVERSATIONS_MAX);
  ["team", "work", "team"].forEach((group) => push(server, group, 9));
  tell(server, ["work", 9, 3]);
  assert.deepEqual(server.said(), []);
  for (const [settled, next] of [["g7", "team"], ["g8", "work"]]) {
    server.session.acknowledgeGroup(1, settled, 6, server.now);
    // The place is left with what the app has of it, the next one goes on where the router knows it to be.
    assert.deepEqual(server.pass(100), [`GroupAck:1:${settled}=6`, `Pull:1:${next}:-`]);
    pulled(server, next, [9], { after: 8 });
    assert.deepEqual(told(server), [`${next} 9`]);
  }
  server.session.acknowledgeGroup(1, "g9", 6, server.now);
  assert.deepEqual(server.pass(100), ["GroupAck:1:g9=6"]);
  // Where there is room after the next login, nobody waits for it.
  push(server, "g9", 7);
  push(server, "late", 9);
  server.reconnect();
  groups.forEach((group) => server.session.acknowledgeGroup(1, group, 6, server.now));
  assert.ok(!server.pass(1000).some((said) => said.startsWith("Pull")), "the router tells anew who is behind");
});

test("after a reconnect only what changed is acknowledged", () => {
  const server = holding({ friends: 4, work: 7 });
  const acknowledged = (group, syncId) => {
    push(server, group, syncId);
    told(server);
    return server.pass(1000);
  };
  assert.deepEqual(acknowledged("friends", 5), ["GroupAck:1:friends=5"], "the router knows the other");
  server.reconnect();
  assert.deepEqual(acknowledged("work", 8), ["GroupAck:1:work=8"]);
  // An acknowledgement that was lost with the connection: the router tells that it knows less.
  tell(server, ["friends", 5, 4]);
  assert.deepEqual(server.pass(1000), ["GroupAck:1:friends=5"]);
  // One that could not be said any more is said with the next.
  push(server, "friends", 6);
  told(server);
  server.reconnect();
  assert.deepEqual(acknowledged("work", 9), ["GroupAck:1:friends=6,work=9"]);
  // And a place that the router itself has told is no news to it.
  push(server, "new", 3);
  server.said();
  pulled(server, "new", [], { after: 3, head: 3, through: 3 });
  assert.deepEqual(acknowledged("friends", 7), ["GroupAck:1:friends=7"]);
});

test("of a group that is found to be left, nothing is told of again that was heard before the question", () => {
  const server = holding({ friends: 4 });
  push(server, "friends", 8, change({ removed: ["alice"] }), true);
  assert.deepEqual(server.said(), ["Pull:1:friends:4"]);
  // By which it joins again: it crosses the answer, and is asked for when the router tells of it.
  push(server, "friends", 9, change({ set: [["alice", 1]] }), true);
  pulled(server, "friends", [], { code: Code.NotFound });
  assert.deepEqual(told(server), ["friends left"]);
  assert.deepEqual(server.pass(1000), ["GroupAck:1:friends=8"]);
});

test("a message to a group is a submit like any other", () => {
  const server = Server.live();
  server.session.submit(1, utf8("a"), { group: "friends" }, utf8("hi"), server.now);
  const [frame] = server.sent();
  assert.deepEqual([1, 2, 3, 4].map((field) => new Fields(frame.body).text(field)), ["a", "", "hi", "friends"]);
  server.reconnect();
  assert.deepEqual(server.said(), ["Data:1:a"]);
  server.answer(1, "a", Code.Ok, 12);
  assert.deepEqual(server.events().map(({ type, syncId }) => [type, syncId]), [["accepted", 12]]);
  const to = (group) => () => server.session.submit(1, utf8("b"), { group }, utf8("hi"), server.now);
  assert.throws(to(""), { why: "name" });
  assert.throws(to("g".repeat(128)), { why: "name" });
});

test("acts are said as the protocol has them", () => {
  const server = Server.live();
  const act = (what) => {
    server.session.askGroup(1, "friends", what, server.now);
    const [{ kind, body }] = server.sent();
    assert.equal(kind, Kind.Group);
    const request = new Fields(body);
    const at = Array.from({ length: 10 }, (_, field) => field + 3).filter((field) => request.messages(field).length > 0);
    return [request.text(2), ...at, request.messages(at[0])[0]];
  };
  let [group, field, body] = act({ act: "create", title: "Friends", isOpen: true, members: ["bob", "eve"] });
  assert.deepEqual([group, field, body.text(1), body.number(2)], ["friends", 3, "Friends", 1]);
  assert.deepEqual(body.texts(3), ["bob", "eve"]);
  [, field, body] = act({ act: "create" });
  assert.deepEqual([field, body.text(1), body.number(2), body.texts(3)], [3, "", 0, []]);
  [, field, body] = act({ act: "add", accounts: ["bob", "eve"] });
  assert.deepEqual([field, body.texts(1)], [4, ["bob", "eve"]]);
  [, field, body] = act({ act: "remove", accounts: ["bob"] });
  assert.deepEqual([field, body.texts(1)], [5, ["bob"]]);
  [, field, body] = act({ act: "role", account: "bob", role: GroupRole.Owner });
  assert.deepEqual([field, body.text(1), body.number(2)], [6, "bob", 3]);
  assert.deepEqual(["dissolve", "join", "leave"].map((name) => act({ act: name })[1]), [7, 8, 9]);
  [, field, body] = act({ act: "members", after: "bob" });
  assert.deepEqual([field, body.text(1)], [10, "bob"]);
  [group, field, body] = act({ act: "list" });
  assert.deepEqual([group, field, body.text(1)], ["", 11, ""]);
  [, field, body] = act({ act: "prefer", priority: 7, isMuted: true });
  assert.deepEqual([field, body.number(1), body.number(2)], [12, 7, 1]);
});

test("a request is asked until it is answered, over reconnects, and answered once", () => {
  const server = Server.live();
  const id = server.session.askGroup(1, "friends", { act: "members" }, server.now);
  assert.deepEqual(server.said(), ["Group:1"]);
  assert.ok(!server.pass(ANSWER_MS - 1).includes("Group:1"));
  assert.ok(server.pass(1).includes("Group:1"));
  server.session.handleDisconnected(server.now);
  const second = server.session.askGroup(1, "", { act: "list" }, server.now);
  assert.notEqual(id, second);
  server.now = server.session.pollTimeout();
  server.connect();
  assert.deepEqual(server.said(), ["Group:1", "Group:1"]);
  const member = new Writer().text(1, "bob").number(2, 3).finish();
  const membership = new Writer().text(1, "friends").number(2, 1).number(3, 9).number(4, 1).finish();
  const answer = new Writer().number(1, id).number(2, Code.Unauthorized).text(3, "no").number(4, 6).message(5, member)
    .message(6, membership).number(7, 1).text(8, "Friends").number(9, 1);
  server.say(Kind.Group, 1, answer);
  server.say(Kind.Group, 1, answer);
  assert.deepEqual(server.events(), [
    {
      type: "group-answer", channel: 1, id, code: Code.Unauthorized, detail: "no", syncId: 6, more: true, isOpen: true,
      title: "Friends", members: [{ account: "bob", role: GroupRole.Owner }],
      groups: [{ group: "friends", role: GroupRole.Member, priority: 9, isMuted: true }],
    },
  ]);
  // The other is answered with the end of the channel.
  server.say(Kind.Close, 1, new Writer().number(1, Code.Kicked));
  assert.deepEqual(server.events().map(({ type, id, code }) => [type, id, code]), [
    ["group-answer", second, Code.Kicked], ["closed", undefined, Code.Kicked],
  ]);
  assert.throws(() => server.session.askGroup(1, "friends", { act: "join" }, server.now), { why: "no-channel" });
});

test("a look that is refused for now is asked again, and a change is not", () => {
  const server = Server.live();
  const ask = (act) => server.session.askGroup(1, "friends", act, server.now);
  const refuse = (id, code) => server.say(Kind.Group, 1, new Writer().number(1, id).number(2, code));
  const answers = () => server.events().map(({ type, id, code }) => [type, id, code]);
  const looks = [ask({ act: "members" }), ask({ act: "list" })];
  assert.deepEqual(server.said(), ["Group:1", "Group:1"]);
  refuse(looks[0], Code.Overloaded);
  refuse(looks[1], Code.Unavailable);
  assert.deepEqual([answers(), server.said()], [[], []]);
  assert.deepEqual(server.pass(101).filter((said) => said === "Group:1").length, 2, "long before an answer is missed");
  refuse(looks[0], Code.Ok);
  refuse(looks[1], Code.NotFound);
  assert.deepEqual(answers(), [["group-answer", looks[0], Code.Ok], ["group-answer", looks[1], Code.NotFound]]);
  const change = ask({ act: "join" });
  refuse(change, Code.Storage);
  assert.deepEqual(answers(), [["group-answer", change, Code.Storage]]);
});

test("what no gateway takes is not asked", () => {
  const server = Server.live();
  const ask = (group, act, channel = 1) => () => server.session.askGroup(channel, group, act, server.now);
  assert.throws(ask("friends", { act: "join" }, 7), { why: "no-channel" });
  assert.throws(ask("", { act: "join" }), { why: "name" });
  assert.throws(ask("a\n", { act: "join" }), { why: "name" });
  const members = Array.from({ length: 600 }, (_, n) => `${n}`.padStart(128));
  assert.throws(ask("friends", { act: "create", members }), { why: "too-large" });
  for (let request = 0; request < 64; request++) {
    ask("friends", { act: "join" })();
  }
  assert.throws(ask("friends", { act: "join" }), { why: "queue-full" });
  // A gateway that takes less than the last one.
  server.session.close(1);
  server.session.open(1, { app: "shop", account: "alice", lastSyncId: 0 });
  const id = ask("friends", { act: "create", members: members.slice(0, 100) })();
  server.session.handleDisconnected(server.now);
  server.events();
  server.now = server.session.pollTimeout();
  server.session.handleDialling(server.now);
  server.session.handleConnected(server.now);
  server.say(Kind.Connected, 0, new Writer().number(1, 1).number(3, 60_000).number(4, 4096));
  const [answer] = server.events();
  assert.deepEqual([answer.type, answer.id, answer.code], ["group-answer", id, Code.TooLarge]);
});

test("positions that are none are refused", () => {
  const server = new Server();
  for (const groupPositions of [{ friends: -1 }, { friends: 0.5 }, { "": 1 }, { ["g".repeat(128)]: 1 }]) {
    server.session.open(3, { app: "shop", account: "alice", groupPositions });
    const [event] = server.events();
    assert.deepEqual([event.type, event.code, event.reopens], ["closed", Code.Invalid, false]);
  }
});
