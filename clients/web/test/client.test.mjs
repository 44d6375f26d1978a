// The face over a WebSocket, on sockets made of memory.

import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";

import { Client } from "../dist/index.js";
import { COMMAND, FrameReader, Kind, encodeFrame } from "../dist/frame.js";
import { Fields, Writer } from "../dist/protobuf.js";
import { delivery } from "./server.mjs";

/** Sockets of one test, as they are made. */
function network() {
  const sockets = [];
  const made = new EventTarget();
  class Socket {
    bufferedAmount = 0;
    kinds = [];
    constructor(url) {
      this.url = url;
      sockets.push(this);
      made.dispatchEvent(new Event("socket"));
    }
    send(bytes) {
      assert.ok(!this.isClosed, "nothing is sent after the end");
      new FrameReader().push(bytes, ({ kind }) => this.kinds.push(kind) > 0);
    }
    close() {
      this.isClosed = true;
    }
    say(kind, channel, writer) {
      const { buffer } = encodeFrame(kind, COMMAND, channel, writer.finish());
      this.onmessage({ data: buffer });
    }
    greet() {
      this.onopen({});
      this.say(Kind.Connected, 0, new Writer().number(1, 1).number(3, 60_000).number(4, 65536));
      this.say(Kind.Opened, 1, new Writer());
    }
  }
  return { sockets, Socket, next: () => once(made, "socket") };
}

function client(net, onEvent = () => {}) {
  const options = { url: "wss://edge.example/moor", device: "d", WebSocket: net.Socket, random: () => 0, onEvent };
  const made = new Client(options);
  made.open(1, { app: "shop", account: "alice", lastSyncId: 0 });
  return made;
}

test("GOAWAY's alternate is tried once, with the protection the app asked for", async () => {
  const net = network();
  const web = client(net);
  for (const alternate of ["other.example:7443", "", "not an address"]) {
    const socket = net.sockets.at(-1);
    const next = net.next();
    socket.greet();
    socket.say(Kind.GoAway, 0, new Writer().number(1, 12).text(4, alternate));
    assert.ok(socket.isClosed);
    await next;
  }
  web.close();
  assert.deepEqual(net.sockets.map(({ url }) => url), [
    "wss://edge.example/moor", "wss://other.example:7443/moor", "wss://edge.example/moor", "wss://edge.example/moor",
  ]);
});

test("an app that leaves from within an event has acknowledged what it took", () => {
  const net = network();
  const web = client(net, (event) => event.type === "message" && web.close());
  const [socket] = net.sockets;
  socket.greet();
  socket.say(Kind.Data, 1, delivery(1));
  assert.ok(socket.isClosed);
  assert.deepEqual(socket.kinds, [Kind.Connect, Kind.Open, Kind.Ack, Kind.Close]);
  // Again, and late bytes: nothing happens.
  web.close();
  socket.say(Kind.Data, 1, delivery(2));
  assert.equal(socket.kinds.length, 4);
});

test("an app that throws in an event gets the next one, and the session goes on", async () => {
  const net = network();
  const taken = [];
  const web = client(net, (event) => {
    taken.push(event.type);
    if (event.type === "disconnected") {
      throw new Error("of the app");
    }
  });
  const [socket] = net.sockets;
  socket.greet();
  const next = net.next();
  assert.throws(() => socket.onclose({}), /of the app/);
  await next;
  net.sockets[1].greet();
  web.close();
  assert.deepEqual(taken, ["connected", "opened", "disconnected", "connected", "opened"]);
});

test("an app that throws in a message has had it", () => {
  const net = network();
  const taken = [];
  const web = client(net, (event) => {
    if (event.type === "message") {
      taken.push(event.syncId);
      throw new Error("of the app");
    }
  });
  const [socket] = net.sockets;
  socket.greet();
  assert.throws(() => socket.say(Kind.Data, 1, delivery(1)), /of the app/);
  assert.equal(web.lastSyncId(1), 1);
  socket.say(Kind.Data, 1, delivery(1));
  web.close();
  assert.deepEqual([taken, socket.kinds], [[1], [Kind.Connect, Kind.Open, Kind.Ack, Kind.Close]]);
});

/** A clock for the timers and for `performance.now`: `pass` wakes whoever is due. */
function clock(context) {
  let now = 0;
  context.mock.timers.enable({ apis: ["setTimeout"] });
  context.mock.method(performance, "now", () => now);
  return (ms) => {
    for (const end = now + ms; now < end; ) {
      now += 1;
      context.mock.timers.tick(1);
    }
  };
}

test("what ends with a connection is told at once, however long the next one takes", (context) => {
  const pass = clock(context);
  const net = network();
  const taken = [];
  const web = client(net, (event) => taken.push(event.type));
  const [socket] = net.sockets;
  socket.greet();
  web.submit(1, "bob", "typing", { class: "transient" });
  socket.say(Kind.GoAway, 0, new Writer().number(1, 12).number(2, 60_000).number(3, 60_000));
  assert.deepEqual(taken, ["connected", "opened", "disconnected", "refused"]);
  // And a try that nobody answers.
  pass(60_000);
  assert.equal(net.sockets.length, 2);
  pass(9999);
  assert.equal(taken.length, 4);
  pass(1);
  assert.deepEqual(taken.slice(4), ["not-connected"]);
  web.close();
});

/** A global scope that has events, as that of a page or a worker. */
function page(context) {
  const target = new EventTarget();
  let listeners = 0;
  globalThis.addEventListener = (...parameters) => {
    listeners += 1;
    target.addEventListener(...parameters);
  };
  globalThis.removeEventListener = (...parameters) => {
    listeners -= 1;
    target.removeEventListener(...parameters);
  };
  context.after(() => {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  });
  return {
    tell: (type, members = {}) => target.dispatchEvent(Object.assign(new Event(type), members)),
    listeners: () => listeners,
  };
}

test("a page that hears of its network tries soon, and finds out whether its connection stands", (context) => {
  const pass = clock(context);
  const scope = page(context);
  const news = [["online"], ["pageshow", { persisted: true }], ["resume"]];
  for (const [type, members] of news) {
    const net = network();
    const options = { url: "wss://edge.example/", device: "d", WebSocket: net.Socket, onEvent() {} };
    const web = new Client({ ...options, random: () => 1 - 2 ** -53 });
    web.open(1, { app: "shop", account: "alice" });
    for (let attempt = 0; attempt < 10; attempt++) {
      net.sockets.at(-1).onclose({});
      pass(100 * 2 ** attempt);
    }
    const tries = net.sockets.length;
    net.sockets.at(-1).onclose({});
    pass(1000);
    scope.tell("pageshow", { persisted: false });
    pass(1000);
    assert.equal(net.sockets.length, tries, "that a page is new says nothing");
    scope.tell(type, members);
    pass(100);
    assert.equal(net.sockets.length, tries + 1, type);
    const socket = net.sockets.at(-1);
    socket.greet();
    scope.tell(type, members);
    assert.deepEqual(socket.kinds, [Kind.Connect, Kind.Open, Kind.Ping], type);
    web.close();
    assert.equal(scope.listeners(), 0);
    scope.tell(type, members);
    pass(60_000);
    assert.equal(net.sockets.length, tries + 1, "whoever has left hears nothing");
  }
});

test("an app says itself that the network is another one where no page hears it", (context) => {
  const pass = clock(context);
  const net = network();
  const web = client(net);
  const [socket] = net.sockets;
  socket.greet();
  web.networkChanged();
  assert.equal(socket.kinds.at(-1), Kind.Ping);
  web.close();
  web.networkChanged();
  pass(60_000);
  assert.equal(net.sockets.length, 1);
});

test("a socket that was given up says nothing any more", async () => {
  const net = network();
  const taken = [];
  const web = client(net, (event) => taken.push(event.type));
  const [old] = net.sockets;
  old.greet();
  const next = net.next();
  old.onclose({});
  await next;
  old.say(Kind.Data, 1, delivery(1));
  old.onclose({});
  web.close();
  assert.deepEqual(taken, ["connected", "opened", "disconnected"]);
});

test("a client that cannot be made leaves nothing behind", (context) => {
  let [made, now] = [0, 0];
  context.mock.timers.enable({ apis: ["setTimeout"] });
  context.mock.method(performance, "now", () => now);
  class Unwilling {
    constructor(url) {
      made += 1;
      throw new SyntaxError(`${url} is no URL`);
    }
  }
  const scope = page(context);
  assert.throws(() => new Client({ url: "edge", device: "d", WebSocket: Unwilling, onEvent() {} }), SyntaxError);
  assert.equal(scope.listeners(), 0);
  for (now = 0; now < 60_000; now += 1000) {
    context.mock.timers.tick(1000);
  }
  assert.equal(made, 1, "nobody tries again");
});

test("a credential may be text, as tokens are", () => {
  const net = network();
  const options = { url: "wss://edge.example/", device: "d", WebSocket: net.Socket, onEvent() {} };
  const credentials = ["a.b.c", new TextEncoder().encode("a.b.c")].map((credential) => {
    const web = new Client(options);
    web.open(1, { app: "shop", account: "alice", credential });
    const bodies = [];
    const socket = net.sockets.at(-1);
    socket.send = (bytes) => new FrameReader().push(bytes, ({ kind, body }) => bodies.push({ kind, body }) > 0);
    socket.onopen({});
    web.close();
    return new Fields(bodies.find(({ kind }) => kind === Kind.Open).body).text(3);
  });
  assert.deepEqual(credentials, ["a.b.c", "a.b.c"]);
});

test("without any WebSocket the app is told what to pass", () => {
  const global = globalThis.WebSocket;
  delete globalThis.WebSocket;
  assert.throws(() => new Client({ url: "ws://x", device: "d", onEvent() {} }), /npm package ws/);
  if (global !== undefined) {
    globalThis.WebSocket = global;
  }
});
