// What the page does: the exchange, or one upgrade. Whoever served it is told how it went.

import { Client } from "/dist/index.js";
import { classes, exchange, groups, levels, marks, reads, rooms } from "/exchange.mjs";

const query = new URLSearchParams(location.search);
const url = query.get("gateway");

async function run() {
  if (query.has("dial")) {
    return new Promise((resolve) => {
      const socket = new WebSocket(url, "moor.v1");
      socket.onopen = () => resolve("open");
      socket.onclose = ({ code }) => resolve(`closed ${code}`);
    });
  }
  const act = (path) => fetch(path, { method: "POST" });
  const cut = () => act("/cut");
  const done = [await exchange(Client, { url }, "page", [cut, cut, cut])];
  done.push(await rooms(Client, { url }, "page", [cut, cut]));
  done.push(await groups(Client, { url }, "page", [cut, cut]));
  done.push(await classes(Client, { url }, "page"));
  done.push(await marks(Client, { url }, "page"));
  done.push(await reads(Client, { url }, "page", [cut, cut]));
  done.push(await levels(Client, { url }, "page", (level) => act(`/degrade?${level}`)));
  return done.join("; ");
}

const result = await run().then((said) => ({ said }), (error) => ({ error: String(error.stack) }));
await fetch("/result", { method: "POST", body: JSON.stringify(result) });
