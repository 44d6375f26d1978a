// A process of its own, which trusts what its environment names: the exchange over Node's own WebSocket.

import { once } from "node:events";

import { Client } from "../../dist/index.js";
import { exchange } from "./exchange.mjs";

/** Has the connections broken by whoever started this process. */
async function cut() {
  process.send("cut");
  await once(process, "message");
}

if (globalThis.WebSocket === undefined) {
  process.send({ none: true });
} else {
  const url = process.argv[2];
  const result = await exchange(Client, { url }, "own", [cut, cut]).then(
    (said) => ({ said }),
    (error) => ({ error: String(error.stack) }),
  );
  process.send(result);
}
process.disconnect();
