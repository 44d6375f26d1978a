// A real gateway as a child process, and a proxy in front of it whose connections can be broken.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { COMMAND, FrameReader, encodeFrame } from "../../dist/frame.js";
import { Writer } from "../../dist/protobuf.js";

const BUILT = fileURLToPath(new URL("../../../../target/release/moor-gateway", import.meta.url));

/** Of the internal protocol. */
const [HELLO, WELCOME, OUTCOME, DEGRADE] = [0x01, 0x02, 0x24, 0x68];
const [VERSION, SERVICE] = [1, 2];

/** An all-in-one gateway on free ports. */
export class Gateway {
  static async start(...more) {
    const gateway = new Gateway();
    gateway.program = process.env.MOOR_GATEWAY ?? BUILT;
    if (!existsSync(gateway.program)) {
      throw new Error(`${gateway.program} is not there: cargo build --release -p moor-gateway, or set MOOR_GATEWAY`);
    }
    gateway.data = mkdtempSync(join(tmpdir(), "moor-web-"));
    // An app of which each device is told what the others have acknowledged.
    const apps = join(gateway.data, "apps.toml");
    writeFileSync(apps, "[apps.told]\ndevice_acks = true\n");
    gateway.more = ["--embedded-apps", apps, ...more];
    await gateway.run();
    return gateway;
  }

  async run() {
    const ports = ["--listen", "--internal", "--admin", "--router-listen"].flatMap((flag) => [flag, "127.0.0.1:0"]);
    const own = ["--data", this.data, "--workers", "2", "--announce", "json"];
    this.child = spawn(this.program, [...ports, ...own, ...this.more], { stdio: ["ignore", "pipe", "ignore"] });
    const [line] = await once(createInterface(this.child.stdout), "line");
    this.listening = JSON.parse(line).listening;
  }

  /** kill -9, and up again on the same data. */
  async restart() {
    await this.kill();
    await this.run();
  }

  async kill() {
    const ended = once(this.child, "exit");
    this.child.kill("SIGKILL");
    await ended;
  }

  async stop() {
    await this.kill();
    rmSync(this.data, { recursive: true, force: true });
  }

  /** Has the router refuse messages of this business level and above; 3: none. */
  async degrade(fromLevel) {
    const [host, port] = this.listening.router.split(":");
    const socket = connect(Number(port), host);
    const frames = [];
    const reader = new FrameReader();
    socket.on("data", (bytes) => reader.push(bytes, ({ kind }) => frames.push(kind) > 0));
    for (const [verb, body, answer] of [
      [HELLO, new Writer().number(1, VERSION).number(2, SERVICE).text(3, "test"), WELCOME],
      [DEGRADE, new Writer().number(2, fromLevel), OUTCOME],
    ]) {
      socket.write(encodeFrame(verb, COMMAND, 0, body.finish()));
      while (!frames.includes(answer)) {
        await once(socket, "data");
      }
    }
    socket.destroy();
  }

  get port() {
    return Number(this.listening.clients.split(":").at(-1));
  }

  /** A number of the gateway's own, as its workers published it last. */
  async stat(name) {
    const answer = await fetch(`http://${this.listening.admin}/v1/stats`);
    return (await answer.json()).gateway[name];
  }

  /** Waits until a number of the gateway's own, which its workers publish now and then, is as wanted. */
  async waitStat(name, wanted) {
    let value;
    for (let turn = 0; turn < 1000; turn++) {
      value = await this.stat(name);
      if (value === wanted) {
        return;
      }
      await sleep(10);
    }
    throw new Error(`${name} is ${value}, not ${wanted}`);
  }
}

/** Passes bytes on to a gateway, until it is told to break every connection. */
export class Proxy {
  static async start(gateway) {
    const proxy = new Proxy();
    proxy.pairs = new Set();
    proxy.server = createServer((from) => {
      const to = connect(gateway.port, "127.0.0.1");
      const pair = [from, to];
      proxy.pairs.add(pair);
      const end = () => {
        proxy.pairs.delete(pair);
        pair.forEach((socket) => socket.destroy());
      };
      for (const [socket, other] of [[from, to], [to, from]]) {
        socket.setNoDelay(true);
        socket.on("error", end).on("close", end).pipe(other);
      }
    });
    proxy.server.listen(0, "127.0.0.1");
    await once(proxy.server, "listening");
    return proxy;
  }

  get url() {
    return `ws://127.0.0.1:${this.server.address().port}/`;
  }

  /** The same over TLS, by the name that certificates are made for. */
  get secureUrl() {
    return `wss://localhost:${this.server.address().port}/`;
  }

  /** Resets what stands. */
  cut() {
    this.pairs.forEach((pair) => pair.forEach((socket) => socket.resetAndDestroy()));
  }

  stop() {
    this.cut();
    this.server.close();
  }
}
