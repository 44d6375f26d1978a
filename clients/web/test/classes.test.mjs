// Messages that are sent once: they carry their class, every answer is final, and nothing keeps them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Code } from "../dist/events.js";
import { Kind } from "../dist/frame.js";
import { Writer, utf8 } from "../dist/protobuf.js";
import { Server, delivery } from "./server.mjs";

const ANSWER_MS = 5000;

function send(server, id, name = "transient", to = "carol") {
  server.session.submit(1, utf8(id), to, utf8("typing"), server.now, { class: name });
}

/** What became of submits, as `type:id` and the code of a refusal. */
function told(server) {
  const results = server.events().filter(({ clientId }) => clientId !== undefined);
  return results.map(({ type, clientId, code }) => [type, new TextDecoder().decode(clientId), code ?? ""].join(":"));
}

test("a message carries its class, and every answer is final", () => {
  const server = Server.live();
  ["a", "b", "c"].forEach((id) => send(server, id));
  send(server, "d", "normal");
  send(server, "e", "reliable");
  server.submit("f");
  assert.deepEqual(server.sent().map(({ flags }) => flags), [3, 3, 3, 2, 1, 1]);
  const codes = [Code.Ok, Code.NotFound, Code.Overloaded, Code.Unavailable, Code.Unavailable, Code.Ok];
  codes.forEach((code, at) => server.answer(1, "abcdef"[at], code));
  assert.deepEqual(told(server), [
    "accepted:a:", "refused:b:5", "refused:c:8", "refused:d:7", "delayed:e:7", "accepted:f:",
  ]);
  assert.deepEqual(server.pass(ANSWER_MS), ["Data:1:e"], "the reliable one goes on");
});

test("what is sent once waits for nothing and is never sent again", () => {
  const server = Server.live();
  send(server, "late");
  assert.deepEqual(server.said(), ["Data:1:late"]);
  assert.deepEqual(server.pass(ANSWER_MS - 1), []);
  assert.deepEqual(server.events(), []);
  // Another submit at the moment it is given up does not bring it along.
  server.now += 1;
  server.submit("next");
  assert.deepEqual(server.said(), ["Data:1:next"]);
  server.pass(0);
  const [late] = server.events();
  assert.deepEqual([late.type, late.code, late.detail], [
    "refused", Code.Unavailable, "no answer came in time; it may have arrived",
  ]);
  server.answer(1, "late", Code.Ok);
  server.answer(1, "next", Code.Ok);
  assert.deepEqual(told(server), ["accepted:next:"], "an answer after that is to nothing");

  send(server, "cut");
  server.session.handleDisconnected(server.now);
  assert.deepEqual(told(server), ["refused:cut:7"]);
  assert.throws(() => send(server, "off"), { name: "SubmitError", why: "offline" });
  server.now = server.session.pollTimeout();
  server.connect();
  assert.deepEqual([server.said(), server.session.unanswered], [[], 0]);

  send(server, "closed");
  server.submit("kept");
  server.say(Kind.Close, 1, new Writer().number(1, Code.Kicked));
  assert.deepEqual(told(server), ["refused:closed:7", "abandoned:kept:11"]);
});

test("what is sent once waits for no place on the wire", () => {
  const server = Server.live();
  for (let id = 0; id < 256; id++) {
    send(server, `m${id}`);
  }
  assert.throws(() => send(server, "one more"), { why: "queue-full" });
  server.submit("kept");
  assert.equal(server.said().length, 256);
  server.answer(1, "m7", Code.Ok);
  assert.deepEqual(server.pass(0), ["Data:1:kept"]);
});

test("a message that comes tells its class", () => {
  const server = Server.live();
  [0, 1, 2, 3, 7, 0xfa].forEach((flags) => server.say(Kind.Data, 1, delivery(0), flags));
  server.say(Kind.Data, 1, delivery(1), 1);
  const classes = server.events().map(({ syncId, class: name }) => [syncId, name]);
  assert.deepEqual(classes, [
    [undefined, "reliable"], [undefined, "reliable"], [undefined, "normal"], [undefined, "transient"],
    [undefined, "transient"], [undefined, "normal"], [1, "reliable"],
  ]);
});

test("a class that is none, or that groups and rooms do not have, is not tried", () => {
  const server = Server.live();
  for (const [name, to] of [["command", "bob"], ["toString", "bob"], ["normal", { group: "friends" }]]) {
    assert.throws(() => send(server, "a", name, to), { name: "SubmitError", why: "class" });
  }
  assert.throws(() => send(server, "a", "transient", ""), { why: "name" });
  const publish = () => server.session.publish(1, utf8("a"), "live", 0, utf8("hi"), server.now, { class: "normal" });
  assert.throws(publish, { why: "class" });
  assert.deepEqual([server.said(), server.session.unanswered], [[], 0]);
});
