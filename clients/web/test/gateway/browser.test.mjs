// The client in headless Chromium, from a page served on loopback, against a real gateway: everything over HTTP and ws://,
// and everything over HTTPS and wss://.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createSecureServer } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Certificate } from "./certificate.mjs";
import { Gateway, Proxy } from "./gateway.mjs";

const PAGE_MS = 60_000;
const root = new URL("../../", import.meta.url);

/** Serves the page and waits for what it says. */
class Site {
  /** `acts`: what the page may have done, by its path. With a certificate: over HTTPS. */
  static async start(acts, certificate) {
    const site = new Site();
    site.certificate = certificate;
    const files = new Map(readdirSync(new URL("dist", root)).map((name) => [`/dist/${name}`, `dist/${name}`]));
    for (const name of ["page.html", "page.mjs", "exchange.mjs"]) {
      files.set(`/${name}`, `test/gateway/${name}`);
    }
    const answer = async ({ method, url }, response, request = response.req) => {
      const { pathname, search } = new URL(url, "http://page");
      if (method === "POST") {
        const body = (await request.toArray()).join("");
        if (pathname === "/result") {
          site.told(JSON.parse(body));
        } else {
          await acts[pathname](search.slice(1));
        }
        return response.end();
      }
      const file = files.get(pathname);
      const type = pathname.endsWith(".html") ? "text/html" : "text/javascript";
      response.writeHead(file === undefined ? 404 : 200, { "content-type": type });
      response.end(file === undefined ? "" : readFileSync(new URL(file, root)));
    };
    site.server =
      certificate === undefined
        ? createServer(answer)
        : createSecureServer({ cert: certificate.pem, key: certificate.key }, answer);
    site.server.listen(0, "127.0.0.1");
    await once(site.server, "listening");
    return site;
  }

  get origin() {
    const { port } = this.server.address();
    return this.certificate === undefined ? `http://127.0.0.1:${port}` : `https://localhost:${port}`;
  }

  /** Opens the page in a browser of its own, which trusts these certificates, and returns what it said. */
  async visit(query, trusted = []) {
    const profile = mkdtempSync(join(tmpdir(), "moor-chromium-"));
    const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
    const quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"];
    // Nothing of the kind but these keys is passed over.
    const digests = trusted.map((certificate) => certificate.keyDigest);
    const trust = digests.length === 0 ? [] : [`--ignore-certificate-errors-spki-list=${digests}`];
    const page = `${this.origin}/page.html?${new URLSearchParams(query)}`;
    const program = process.env.MOOR_CHROMIUM ?? "chromium";
    // Its own process group: the browser is many processes, and all of them are to end.
    const browser = spawn(program, [...flags, ...quiet, ...trust, `--user-data-dir=${profile}`, page], {
      stdio: "ignore",
      detached: true,
    });
    const ended = new Promise((resolve, reject) => {
      browser.on("error", (error) => reject(new Error(`${program}: ${error.message}; apt-get install chromium`)));
      browser.on("exit", resolve);
    });
    let timer;
    try {
      return await Promise.race([
        new Promise((resolve) => (this.told = resolve)),
        ended.then((code) => ({ error: `the browser ended with ${code}` })),
        new Promise((resolve) => (timer = setTimeout(resolve, PAGE_MS, { error: "the page said nothing" }))),
      ]);
    } finally {
      clearTimeout(timer);
      if (browser.pid !== undefined) {
        process.kill(-browser.pid, "SIGKILL");
        await ended;
      }
      rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
    }
  }
}

let gateway;
let proxy;
let allowed;
let stranger;
before(async () => {
  allowed = await Site.start({ "/cut": () => proxy.cut(), "/degrade": (level) => gateway.degrade(Number(level)) });
  stranger = await Site.start({});
  gateway = await Gateway.start("--websocket-origins", allowed.origin);
  proxy = await Proxy.start(gateway);
});
after(async () => {
  allowed?.server.close();
  stranger?.server.close();
  proxy?.stop();
  await gateway?.stop();
});

test("a page of a listed origin: two accounts on one socket, nothing lost or repeated", async (t) => {
  const { said, error } = await allowed.visit({ gateway: proxy.url });
  assert.equal(error, undefined);
  t.diagnostic(said);
});

test("a page of another origin is refused, a listed one is not", async () => {
  assert.deepEqual(await stranger.visit({ gateway: proxy.url, dial: "" }), { said: "closed 1006" });
  await gateway.waitStat("upgrades_refused_total", 1);
  assert.deepEqual(await allowed.visit({ gateway: proxy.url, dial: "" }), { said: "open" });
});

test("a page over HTTPS and a gateway over TLS: nothing lost or repeated, and no certificate but a trusted one", async (t) => {
  const [own, other] = [new Certificate(), new Certificate()];
  const acts = { "/cut": () => secureProxy.cut(), "/degrade": (level) => secure.degrade(Number(level)) };
  const site = await Site.start(acts, own);
  // Here no group's messages are copied into its members' timelines; on the other gateway they are.
  const more = ["--tls-records", "compact", "--group-read-threshold", "0"];
  const secure = await Gateway.start(...other.flags, ...more, "--websocket-origins", site.origin);
  const secureProxy = await Proxy.start(secure);
  try {
    const { said, error } = await site.visit({ gateway: secureProxy.secureUrl }, [own, other]);
    assert.equal(error, undefined);
    t.diagnostic(said);
    await secure.waitStat("connections_open", 0);
    const handshakes = await secure.stat("tls_handshakes_total");
    t.diagnostic(`${handshakes} handshakes, ${await secure.stat("tls_resumed_total")} of them resumed`);
    // The page is the same; the gateway's certificate is not trusted.
    assert.deepEqual(await site.visit({ gateway: secureProxy.secureUrl, dial: "" }, [own]), { said: "closed 1006" });
    assert.equal(await secure.stat("tls_handshakes_total"), handshakes, "nothing was said to it");
  } finally {
    secureProxy.stop();
    await secure.stop();
    site.server.close();
    own.remove();
    other.remove();
  }
});
