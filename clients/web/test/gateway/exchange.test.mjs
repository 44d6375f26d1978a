// The client in Node against a real gateway: over the npm package ws, and over Node's own WebSocket where it has one.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { WebSocket as PackageWebSocket } from "ws";

import { Client } from "../../dist/index.js";
import { FrameReader, Kind } from "../../dist/frame.js";
import { classes, exchange, groups, heartbeat, levels, marks, reads, rooms } from "./exchange.mjs";
import { Gateway, Proxy } from "./gateway.mjs";

let gateway;
let proxy;
/** Where no group's messages are copied into its members' timelines. */
let uncopied;
let uncopiedProxy;
before(async () => {
  gateway = await Gateway.start("--heartbeat-min-ms", "1000");
  proxy = await Proxy.start(gateway);
  uncopied = await Gateway.start("--group-read-threshold", "0");
  uncopiedProxy = await Proxy.start(uncopied);
});
after(async () => {
  proxy?.stop();
  uncopiedProxy?.stop();
  await gateway?.stop();
  await uncopied?.stop();
});

const sockets = { "the npm package ws": PackageWebSocket, "Node's own": globalThis.WebSocket };
for (const [name, WebSocket] of Object.entries(sockets)) {
  const options = { skip: WebSocket === undefined && "this Node has none" };

  test(`two accounts on one socket, nothing lost or repeated over ${name}`, options, async (t) => {
    const cut = () => proxy.cut();
    const breaks = [cut, cut, () => gateway.restart(), cut];
    const run = name.replaceAll(/\W/g, "");
    t.diagnostic(await exchange(Client, { url: proxy.url, WebSocket }, run, breaks));
  });

  test(`a group: everybody has it once and in order over ${name}`, options, async (t) => {
    const run = name.replaceAll(/\W/g, "");
    for (const [at, through] of [[gateway, proxy], [uncopied, uncopiedProxy]]) {
      const cut = () => through.cut();
      t.diagnostic(await groups(Client, { url: through.url, WebSocket }, run, [cut, () => at.restart(), cut]));
    }
  });

  test(`a room: what is reliable is heard once and in order over ${name}`, options, async (t) => {
    const cut = () => proxy.cut();
    const run = name.replaceAll(/\W/g, "");
    t.diagnostic(await rooms(Client, { url: proxy.url, WebSocket }, run, [cut, () => gateway.restart(), cut]));
  });

  test(`messages that nobody keeps reach who is there over ${name}`, options, async (t) => {
    t.diagnostic(await classes(Client, { url: proxy.url, WebSocket }, name.replaceAll(/\W/g, "")));
  });

  test(`what a business level that is off has refused is told over ${name}`, options, async (t) => {
    const run = name.replaceAll(/\W/g, "");
    t.diagnostic(await levels(Client, { url: proxy.url, WebSocket }, run, (level) => gateway.degrade(level)));
  });

  test(`traffic marks come with every message over ${name}`, options, async (t) => {
    const run = name.replaceAll(/\W/g, "");
    for (const { url } of [proxy, uncopiedProxy]) {
      t.diagnostic(await marks(Client, { url, WebSocket }, run));
    }
  });

  test(`what one device has read the other hears over ${name}`, options, async (t) => {
    const cut = () => proxy.cut();
    const run = name.replaceAll(/\W/g, "");
    t.diagnostic(await reads(Client, { url: proxy.url, WebSocket }, run, [cut, () => gateway.restart(), cut]));
  });

  test(`an idle client is kept over ${name}`, options, async () => {
    const counts = counting(WebSocket);
    await heartbeat(Client, { url: proxy.url, WebSocket: counts.Socket }, counts);
  });
}

test("who says nothing is let go", async () => {
  const deaf = counting(PackageWebSocket, false);
  const reasons = [];
  const client = new Client({
    url: proxy.url,
    device: "deaf",
    heartbeatMaxMs: 1000,
    WebSocket: deaf.Socket,
    onEvent: (event) => event.type === "disconnected" && reasons.push(event.reason),
  });
  for (let turn = 0; turn < 1000 && reasons.length === 0; turn++) {
    await sleep(10);
  }
  client.close();
  assert.ok(reasons.length > 0, "the gateway hangs up");
});

/** A WebSocket that counts heartbeats; `beats` false: none gets out. */
function counting(WebSocket, beats = true) {
  let [sent, heard] = [0, 0];
  const count = (bytes, kind) => {
    let found = 0;
    new FrameReader().push(bytes, (frame) => Boolean((found += Number(frame.kind === kind)) || true));
    return found;
  };
  class Socket extends WebSocket {
    constructor(...parameters) {
      super(...parameters);
      this.addEventListener("message", ({ data }) => (heard += count(new Uint8Array(data), Kind.Pong)));
    }
    send(bytes) {
      const pings = count(bytes, Kind.Ping);
      sent += pings;
      if (beats || pings === 0) {
        super.send(bytes);
      }
    }
  }
  return {
    Socket,
    async until(wanted) {
      for (let turn = 0; turn < 2000 && (sent < wanted || heard < wanted); turn++) {
        await sleep(10);
      }
      assert.ok(sent >= wanted && heard >= wanted, `${sent} PINGs sent, ${heard} PONGs heard`);
    },
  };
}
