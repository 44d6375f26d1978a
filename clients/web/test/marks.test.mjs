// Traffic marks: said with a message, and told with every delivery of one.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Kind } from "../dist/frame.js";
import { Fields, Writer, utf8 } from "../dist/protobuf.js";
import { Server, delivery } from "./server.mjs";

const given = { source: "qr", campaign: "frühling", release: "gray-2" };

/** As the wire has them. */
function encoded({ source = "", campaign = "", release = "" }) {
  return new Writer().text(1, source).text(2, campaign).text(3, release).finish();
}

/** Submits with these marks, and what is on the wire of them: `undefined`: nothing. */
function said(server, marks, to = "bob") {
  server.session.submit(1, utf8("a"), to, utf8("hi"), server.now, { marks });
  const [frame] = server.sent();
  const [body] = new Fields(frame.body).messages(9);
  return body && [1, 2, 3].map((field) => body.text(field));
}

test("marks are said as they are given, to accounts, groups and rooms", () => {
  const server = Server.live();
  assert.deepEqual(said(server, given), Object.values(given));
  assert.deepEqual(said(server, { release: "gray-2" }, { group: "friends" }), ["", "", "gray-2"]);
  assert.deepEqual([said(server, undefined), said(server, {}), said(server, { source: "" })], [undefined, undefined, undefined]);
  server.session.publish(1, utf8("b"), "live", 1, utf8("hi"), server.now, { marks: given });
  const [frame] = server.sent();
  assert.deepEqual(new Fields(frame.body).messages(9)[0].text(2), "frühling");
});

test("a mark that is too long is not tried", () => {
  const server = Server.live();
  assert.deepEqual(said(server, { campaign: "ü".repeat(16) }), ["", "ü".repeat(16), ""]);
  for (const name of Object.keys(given)) {
    assert.throws(() => said(server, { [name]: "ü".repeat(16) + "." }), { name: "SubmitError", why: "mark" });
  }
  assert.deepEqual(server.sent(), []);
});

test("every delivery tells its marks, whichever way it came", () => {
  const server = Server.live();
  server.session.enter(1, "live", 0);
  server.said();
  const mark = encoded(given);
  const told = () => server.events().flatMap((event) => event.messages ?? [event]).map(({ marks }) => marks);
  server.say(Kind.Data, 1, delivery(1).message(10, mark));
  server.say(Kind.Data, 1, delivery(0).message(10, encoded({ source: "qr" })));
  server.say(Kind.Data, 1, delivery(2));
  assert.deepEqual(told(), [given, { source: "qr" }, {}]);

  const heads = new Writer().text(1, "friends").number(2, 1).present(4, 0);
  server.say(Kind.GroupHeads, 1, new Writer().message(1, heads.finish()));
  server.said();
  const entry = new Writer().text(1, "friends").number(2, 1).text(3, "carol").bytes(7, utf8("hi"));
  server.say(Kind.GroupDelivery, 1, entry.message(9, mark));
  server.say(Kind.Data, 1, delivery(3).text(7, "friends").number(8, 2).message(10, mark));
  const pulled = delivery(3).text(7, "friends").message(10, mark).finish();
  server.say(Kind.Data, 1, delivery(4).text(7, "friends").number(8, 4));
  server.said();
  server.say(Kind.Pulled, 1, new Writer().number(1, server.pulls.get("friends")).text(4, "friends").number(5, 2)
    .message(6, pulled).number(7, 3).number(9, 3));
  assert.deepEqual(told(), [given, given, given]);

  const message = new Writer().text(1, "carol").bytes(5, utf8("hi")).number(6, 1).message(7, mark);
  server.say(Kind.Room, 1, new Writer().text(1, "live").message(2, message.finish()).number(4, 1));
  assert.deepEqual(told(), [given]);
});
