// A WebSocket server on Node.js with the `ws` package that does what the other servers of the comparison do: client n
// is at path /n and gets messages for itself and for everybody; a service at /service says four bytes of index, then
// the payload.
const { WebSocketServer } = require("ws");
const [host, port] = process.argv.slice(2);
const EVERYBODY = 0xffffffff;
const people = new Map();

function serve(bytes) {
  const index = bytes.readUInt32BE(0);
  const payload = bytes.subarray(4);
  if (index === EVERYBODY) {
    for (const socket of people.values()) socket.send(payload);
  } else {
    people.get(index)?.send(payload);
  }
}

const server = new WebSocketServer({ host, port: Number(port), backlog: 4096, perMessageDeflate: false });
server.on("connection", (socket, request) => {
  const name = request.url.slice(1);
  if (name === "service") {
    socket.on("message", serve);
  } else {
    people.set(Number(name), socket);
    socket.on("close", () => people.delete(Number(name)));
  }
  socket.send("ready");
});
