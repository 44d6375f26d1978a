// The client in Node over wss:// against a real gateway: over the npm package ws, and over Node's own WebSocket.

import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { WebSocket as PackageWebSocket } from "ws";

import { Client } from "../../dist/index.js";
import { Certificate } from "./certificate.mjs";
import { exchange } from "./exchange.mjs";
import { Gateway, Proxy } from "./gateway.mjs";

const CHILD = fileURLToPath(new URL("secure-child.mjs", import.meta.url));
const TRIES = 3;

let certificate;
before(() => {
  certificate = new Certificate();
});
after(() => certificate?.remove());

/** A gateway that speaks only TLS, and a proxy in front of it, for as long as `use` takes. */
async function secure(more, use) {
  const gateway = await Gateway.start(...certificate.flags, ...more);
  const proxy = await Proxy.start(gateway);
  try {
    await use(gateway, proxy);
  } finally {
    proxy.stop();
    await gateway.stop();
  }
}

/** The package's WebSocket with options of TLS, as an app gives them to it. */
const trusting = (options) =>
  class extends PackageWebSocket {
    constructor(url, protocols) {
      super(url, protocols, options);
    }
  };

for (const records of ["rustls", "compact"]) {
  test(`two accounts on one socket, nothing lost or repeated, records ${records}`, async (t) => {
    await secure(["--tls-records", records], async (gateway, proxy) => {
      const cut = () => proxy.cut();
      const options = { url: proxy.secureUrl, WebSocket: trusting({ ca: certificate.pem }) };
      t.diagnostic(await exchange(Client, options, records, [cut, cut, () => gateway.restart(), cut]));
    });
  });
}

test("TLS 1.2 is spoken as well", async (t) => {
  await secure([], async (gateway, proxy) => {
    const WebSocket = trusting({ ca: certificate.pem, maxVersion: "TLSv1.2" });
    t.diagnostic(await exchange(Client, { url: proxy.secureUrl, WebSocket }, "old", [() => proxy.cut()]));
  });
});

// It takes authorities of its own only from the environment it was started in.
test("Node's own WebSocket trusts what NODE_EXTRA_CA_CERTS names", async (t) => {
  await secure([], async (gateway, proxy) => {
    const child = fork(CHILD, [proxy.secureUrl], {
      env: { ...process.env, NODE_EXTRA_CA_CERTS: certificate.file },
      execArgv: ["--experimental-websocket"],
    });
    const said = await new Promise((resolve, reject) => {
      child.on("error", reject).on("exit", (code) => reject(new Error(`it ended with ${code}`)));
      child.on("message", (message) => {
        if (message === "cut") {
          proxy.cut();
          child.send("done");
        } else {
          resolve(message);
        }
      });
    });
    if (said.none) {
      return t.skip("this Node has none");
    }
    assert.equal(said.error, undefined);
    t.diagnostic(said.said);
  });
});

/** Why a client's first tries failed, and what it was told meanwhile. */
async function refusals(url, options) {
  const reasons = [];
  const events = [];
  let enough;
  const tried = new Promise((resolve) => (enough = resolve));
  class Socket extends trusting(options) {
    constructor(...parameters) {
      super(...parameters);
      this.addEventListener("open", enough);
      this.addEventListener("error", ({ error }) => reasons.push(error.code) === TRIES && enough());
    }
  }
  const client = new Client({ url, device: "wary", WebSocket: Socket, onEvent: ({ type }) => events.push(type) });
  client.open(1, { app: "shop", account: "wary" });
  await tried;
  client.close();
  return { reasons: reasons.slice(0, TRIES), events: [...new Set(events)] };
}

test("a certificate that is not trusted, or for another name, is never spoken to", async () => {
  await secure([], async (gateway, proxy) => {
    const of = (reason) => ({ reasons: Array(TRIES).fill(reason), events: ["not-connected"] });
    assert.deepEqual(await refusals(proxy.secureUrl, {}), of("DEPTH_ZERO_SELF_SIGNED_CERT"));
    const elsewhere = proxy.secureUrl.replace("localhost", "127.0.0.1");
    assert.deepEqual(await refusals(elsewhere, { ca: certificate.pem }), of("ERR_TLS_CERT_ALTNAME_INVALID"));
    await gateway.waitStat("connections_open", 0);
    await gateway.waitStat("tls_handshakes_total", 0);
  });
});
