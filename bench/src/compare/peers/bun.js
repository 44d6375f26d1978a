// A WebSocket server on Bun that does what the other servers of the comparison do: client n is at path /n and gets
// messages for itself and for everybody; a service at /service says four bytes of index, then the payload.
const [hostname, port] = process.argv.slice(2);
const EVERYBODY = 0xffffffff;
const people = new Map();

const server = Bun.serve({
  hostname,
  port: Number(port),
  fetch(request, server) {
    const name = request.url.slice(request.url.lastIndexOf("/") + 1);
    if (!server.upgrade(request, { data: name === "service" ? -1 : Number(name) })) {
      return new Response("a WebSocket is wanted", { status: 426 });
    }
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 0,
    sendPings: false,
    // Nobody is skipped: what a reader has not taken yet is kept, as by the other servers.
    backpressureLimit: 64 * 1024 * 1024,
    open(socket) {
      if (socket.data >= 0) {
        people.set(socket.data, socket);
        socket.subscribe("all");
      }
      socket.send("ready");
    },
    message(_service, bytes) {
      const index = bytes.readUInt32BE(0);
      const payload = bytes.subarray(4);
      if (index === EVERYBODY) {
        server.publish("all", payload);
      } else {
        people.get(index)?.send(payload);
      }
    },
    close(socket) {
      people.delete(socket.data);
    },
  },
});
