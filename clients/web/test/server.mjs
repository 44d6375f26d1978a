// The server's end of a session, made of bytes, and a clock that jumps.

import { COMMAND, FrameReader, Kind, encodeFrame } from "../dist/frame.js";
import { Fields, Writer, utf8 } from "../dist/protobuf.js";
import { Session } from "../dist/session.js";

export class Server {
  now = 1000;
  /** What the session draws. */
  draw = 0.5;
  /** Ids of the last PULLs, by group. */
  pulls = new Map();

  constructor(options = {}) {
    this.session = new Session({ device: "browser", random: () => this.draw, ...options });
    this.session.open(1, { app: "shop", account: "alice", lastSyncId: 0 });
    this.session.open(2, { app: "shop", account: "bob", lastSyncId: 0 });
  }

  static live(options) {
    const server = new Server(options);
    server.connect();
    return server;
  }

  connect(heartbeatMs = 60_000) {
    this.session.handleDialling(this.now);
    this.session.handleConnected(this.now);
    this.greeting = this.sent();
    this.say(Kind.Connected, 0, new Writer().number(1, 1).text(2, "gw").number(3, heartbeatMs).number(4, 65536));
    for (const channel of [1, 2]) {
      this.say(Kind.Opened, channel, new Writer());
    }
    this.events();
  }

  /** Breaks the connection and makes the next one. */
  reconnect() {
    this.session.handleDisconnected(this.now);
    this.now = Math.max(this.now, this.session.pollTimeout());
    this.connect();
  }

  say(kind, channel, writer, flags = COMMAND) {
    this.session.handleBytes(encodeFrame(kind, flags, channel, writer.finish()), this.now);
  }

  deliver(channel, syncId, floor = 1) {
    this.say(Kind.Data, channel, delivery(syncId, floor));
  }

  answer(channel, clientId, code, syncId = 0, detail = "") {
    this.say(Kind.Ack, channel, new Writer().bytes(1, utf8(clientId)).number(2, code).number(3, syncId).text(5, detail));
  }

  submit(clientId) {
    this.session.submit(1, utf8(clientId), "bob", utf8("hello"), this.now);
  }

  sent() {
    const frames = [];
    const bytes = this.session.pollTransmit(this.now);
    if (bytes !== undefined) {
      new FrameReader().push(bytes, (frame) => frames.push(frame) > 0);
    }
    return frames;
  }

  /**
   * What was sent, as `kind:channel:sync id or client id`, of rooms `kind:channel:room:number`, of groups and read marks
   * likewise.
   */
  said() {
    return this.sent().map(({ kind, channel, body }) => {
      const name = Object.keys(Kind).find((key) => Kind[key] === kind);
      if (kind === Kind.Ack || kind === Kind.Sync || kind === Kind.ReadMarks) {
        return `${name}:${channel}:${new DataView(body.buffer, body.byteOffset).getBigUint64(0)}`;
      }
      if (kind === Kind.Pull) {
        const pull = new Fields(body);
        this.pulls.set(pull.text(2), pull.number(1));
        return `${name}:${channel}:${pull.text(2)}:${pull.optional(3) ?? "-"}`;
      }
      if (kind === Kind.GroupAck) {
        const positions = new Fields(body).messages(1).map((position) => `${position.text(1)}=${position.number(2)}`);
        return `${name}:${channel}:${positions}`;
      }
      if (kind === Kind.Read) {
        const mark = new Fields(body);
        return `${name}:${channel}:${mark.number(1) === 1 ? "group " : ""}${mark.text(2)}:${mark.number(3)}`;
      }
      if (kind >= Kind.Enter && kind <= Kind.RoomRefused) {
        const fields = new Fields(body);
        return `${name}:${channel}:${fields.text(1)}:${fields.optional(2) ?? "-"}`;
      }
      return kind === Kind.Data ? `${name}:${channel}:${new Fields(body).text(1)}` : `${name}:${channel}`;
    });
  }

  /** Lets time pass, waking the session as it asks. */
  pass(ms) {
    const end = this.now + ms;
    const said = [];
    for (let turn = 0; turn < 1000 && this.session.pollTimeout() <= end && !this.session.wantsHangUp; turn++) {
      this.now = Math.max(this.now, this.session.pollTimeout());
      this.session.handleTimeout(this.now);
      said.push(...this.said());
    }
    this.now = end;
    return said;
  }

  events() {
    const events = [];
    for (let event; (event = this.session.pollEvent(this.now)); ) {
      events.push(event);
    }
    return events;
  }

  /** Sync ids of the messages that were handed over. */
  messages() {
    return this.events().filter(({ type }) => type === "message").map(({ syncId }) => syncId);
  }
}

export function delivery(syncId, floor = 1) {
  return new Writer().number(1, syncId).text(2, "carol").bytes(3, utf8(`m${syncId}`)).number(4, 1.7e12)
    .number(5, floor).text(6, `payload ${syncId}`);
}
