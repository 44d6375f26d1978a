// The session core: no I/O, no clock. Owns everything that must survive a broken connection: which channels should be
// open, what each has received without a gap, which submits are not answered yet. The driver feeds it what happened
// (`handle…`, with the time) and takes what to do (`poll…`). It never reports a message as accepted that the router
// did not accept.

import { Channel, type Login, encodeClose } from "./channel.js";
import type { Context } from "./context.js";
import { Code, type Disconnect, type Event, RoomError, SubmitError, codeOf } from "./events.js";
import { COMMAND, type Frame, FrameReader, Kind, classOf, encodeFrame, isOptional } from "./frame.js";
import type { GroupAct } from "./groups.js";
import { type Random, between, fullJitter } from "./jitter.js";
import * as limits from "./limits.js";
import { nameFault } from "./names.js";
import { Fields, WireError, Writer, concat } from "./protobuf.js";
import type { Message, Sending, Target } from "./submit.js";

/** How a session presents itself. */
export interface SessionOptions {
  /** The device's stable name, 1 to 128 bytes. */
  readonly device: string;
  /** Software and version, for the operator's eye, at most 64 bytes. */
  readonly agent?: string;
  /** Longest heartbeat interval this client can keep, milliseconds; absent: the server's proposal. */
  readonly heartbeatMaxMs?: number;
  /** False: the app calls {@link Session.acknowledge}. Otherwise a message counts as processed once taken. */
  readonly autoAcknowledge?: boolean;
  /** True: each login asks what the account's other devices have read meanwhile. */
  readonly readMarks?: boolean;
  /** For tests; `Math.random` otherwise. */
  readonly random?: Random;
}

/** What a server says on a channel. */
const CHANNEL_KINDS: ReadonlySet<number> = new Set([
  Kind.Opened, Kind.Close, Kind.Data, Kind.Ack, Kind.Group, Kind.GroupDelivery, Kind.GroupHeads, Kind.Pulled,
  Kind.Room, Kind.RoomPulled, Kind.RoomRefused, Kind.Read, Kind.ReadMarks, Kind.DeviceAck,
]);

/** What a server says of the connection. */
const CONNECTION_KINDS: ReadonlySet<number> = new Set([Kind.Connected, Kind.GoAway, Kind.Error]);

/** `leaving`: the driver is to hang up. */
type State = "down" | "dialling" | "greeting" | "live" | "leaving";

/** One device's session with a gateway. */
export class Session {
  private readonly random: Random;
  private readonly context: Context;
  private readonly channels = new Map<number, Channel>();
  private state: State = "down";
  /** The driver has begun to connect, and there is no connection yet. */
  private isDialling = false;
  private retryMs = 0;
  private attempt = 0;
  /** From GOAWAY: when to come back. */
  private returnMs: number | undefined;
  /** `retryMs` is of a GOAWAY. */
  private isSentAway = false;
  /** Of the last try that a change of the network has hastened. */
  private hastenedMs = -Infinity;
  private reader = new FrameReader();
  private out: Uint8Array[] = [];
  private outBytes = 0;
  /** Bytes that the driver has taken and not written yet. */
  private backlogBytes = 0;
  private events: Event[] = [];
  /** Channels closed before their OPEN was answered, once per OPEN: the next answer is that one's. */
  private answersOwed: number[] = [];
  private nextRequest = 1;
  private deadlineMs = 0;
  private heartbeatMs = 0;
  private dataBytesMax = limits.CLIENT_BODY_BYTES_MAX;
  private liveMs: number | undefined;
  private sentMs = 0;
  private heardMs = 0;
  /** When the PING was sent that has not been followed by anything yet, or what is before it last moved. */
  private pingedMs: number | undefined;
  /** Bytes that are not written yet up to the end of that PING; undefined: not told since it was said. */
  private beforePing: number | undefined = 0;
  /** When to look again at what is written. */
  private lookMs = Infinity;

  /** A session that wants to be connected at once; RangeError when its names are none. */
  constructor(private readonly options: SessionOptions) {
    const fault =
      nameFault("device", options.device, limits.ACCOUNT_BYTES_MAX) ??
      nameFault("agent", options.agent ?? "-", limits.AGENT_BYTES_MAX);
    if (fault !== undefined) {
      throw new RangeError(fault);
    }
    this.random = options.random ?? Math.random;
    this.context = {
      random: this.random,
      hasRoom: () => this.hasRoom(),
      emit: (event) => void this.events.push(event),
      send: (bytes) => this.send(bytes),
    };
  }

  /** Wants an account logged in on a channel, now and after every reconnect. A channel that exists is replaced. */
  open(number: number, login: Login): void {
    this.close(number);
    const channel = new Channel(number, login, this.context, this.options.readMarks ?? false);
    const refusal = channel.refusal();
    if (refusal !== undefined) {
      this.events.push({ type: "closed", channel: number, ...refusal, reopens: false });
      return;
    }
    // CONNECT has been said: OPEN may follow it without waiting.
    if (this.isTalking()) {
      channel.sendOpen();
    }
    this.channels.set(number, channel);
  }

  /**
   * Logs a channel out. Its unanswered submits and requests are forgotten. What it heard and nobody has taken is dropped:
   * messages come again at the account's next login.
   */
  close(number: number): void {
    // Also what was said of a login that was never tried.
    this.events = this.events.filter((event) => !isOfLogin(event) || event.channel !== number);
    const channel = this.channels.get(number);
    if (channel === undefined) {
      return;
    }
    this.channels.delete(number);
    if (this.isTalking() && channel.sendClose()) {
      this.answersOwed.push(number);
    }
  }

  /** Logs every channel out. */
  closeAll(): void {
    [...this.channels.keys()].forEach((number) => this.close(number));
  }

  /**
   * Sends a message. `accepted`, `refused` or `abandoned` with the same client id says what became of it; until then
   * it is kept, over reconnects, and sent again; `delayed` says why that takes its time. A message of class normal or
   * transient is for whoever is logged in as the receiver right now: it is sent once, and accepted with sync id 0 or
   * refused, whatever the reason. Throws {@link SubmitError} when it is not even tried.
   */
  submit(
    number: number,
    clientId: Uint8Array,
    to: Target,
    payload: Uint8Array,
    now: number,
    sending: Sending = {},
  ): void {
    this.offer(number, { clientId, to, payload, sending }, now);
  }

  /**
   * Says something to everybody in a room, as a message of a type; otherwise like {@link submit}. What is not reliable
   * there has no sync id (0), and may be heard twice when an answer was lost. Its type says what it is worth: it has no class.
   */
  publish(
    number: number,
    clientId: Uint8Array,
    room: string,
    type: number,
    payload: Uint8Array,
    now: number,
    sending: Omit<Sending, "class"> = {},
  ): void {
    this.offer(number, { clientId, to: { room, type }, payload, sending }, now);
  }

  private offer(number: number, message: Message, now: number): void {
    const channel = this.channels.get(number);
    if (channel === undefined) {
      throw new SubmitError("no-channel", `channel ${number} is not open: open it first`);
    }
    channel.submit(message, this.dataBytesMax, now);
  }

  /**
   * Wants to hear what is said in a room of the channel's app, now and after every reconnect, behind `lastId` where it is
   * known. Throws {@link RoomError}.
   */
  enter(number: number, room: string, lastId?: number): void {
    const channel = this.channels.get(number);
    if (channel === undefined) {
      throw new RoomError("no-channel", `channel ${number} is not open: open it first`);
    }
    channel.enter(room, lastId);
  }

  /** Wants to hear it no more. */
  leave(number: number, room: string): void {
    this.channels.get(number)?.leave(room);
  }

  /** Likes a room it is in, so many times. They are collected and counted, not delivered. */
  like(number: number, room: string, count: number, now: number): void {
    if (!Number.isSafeInteger(count) || count < 1) {
      throw new RangeError(`${count} is no number of likes`);
    }
    this.channels.get(number)?.rooms.like(room, count, now);
  }

  /** Up to which id a room's reliable messages are here: to be kept by the app for the next {@link enter}. */
  roomLastId(number: number, room: string): number | undefined {
    return this.channels.get(number)?.rooms.lastId(room);
  }

  /** Says that everything up to `syncId` on a channel is processed and will not be lost. */
  acknowledge(number: number, syncId: number, now: number): void {
    this.channels.get(number)?.acknowledge(syncId, now);
  }

  /**
   * Asks something about a group; the event `group-answer` with the returned id follows, if need be after a reconnect.
   * Throws {@link SubmitError} when it is not even tried.
   */
  askGroup(number: number, group: string, act: GroupAct, now: number): number {
    const channel = this.channels.get(number);
    if (channel === undefined) {
      throw new SubmitError("no-channel", `channel ${number} is not open: open it first`);
    }
    const id = this.nextRequest++;
    channel.ask(id, group, act, this.dataBytesMax, now);
    return id;
  }

  /** Says that everything of a group up to `syncId` is processed and will not be lost. */
  acknowledgeGroup(number: number, group: string, syncId: number, now: number): void {
    this.channels.get(number)?.conversations.acknowledge(group, syncId, now);
  }

  /**
   * Says that the account has read a conversation up to `syncId`, on this device. Kept, over reconnects, and said again until
   * the router has it; `read-mark` tells when. Throws {@link SubmitError} when it is not even tried.
   */
  markRead(number: number, conversation: Target, syncId: number, now: number): void {
    const channel = this.channels.get(number);
    if (channel === undefined) {
      throw new SubmitError("no-channel", `channel ${number} is not open: open it first`);
    }
    channel.markRead(conversation, syncId, now);
  }

  /** What a channel holds of its groups: to be kept by the app for the next {@link open}. */
  groupPositions(number: number): Record<string, number> {
    return this.channels.get(number)?.conversations.positions() ?? {};
  }

  /** What a channel holds without a gap: to be kept by the app for the next {@link open}. */
  lastSyncId(number: number): number | undefined {
    return this.channels.get(number)?.processed;
  }

  /** Submits that are not answered yet, over all channels. */
  get unanswered(): number {
    return [...this.channels.values()].reduce((sum, channel) => sum + channel.unanswered, 0);
  }

  /** Logged in. */
  get isLive(): boolean {
    return this.state === "live";
  }

  /** Whether the driver should connect now. */
  wantsConnection(now: number): boolean {
    return this.state === "down" && now >= this.retryMs;
  }

  /** Whether the driver should hang up and then call {@link handleDisconnected}. */
  get wantsHangUp(): boolean {
    return this.state === "leaving";
  }

  /** Bytes to send. */
  pollTransmit(now: number): Uint8Array | undefined {
    if (this.out.length === 0) {
      return undefined;
    }
    this.sentMs = now;
    const bytes = concat(this.out);
    this.clearOut();
    return bytes;
  }

  /**
   * How many of the bytes that were taken are not written yet: told after {@link pollTransmit}, and before
   * {@link handleTimeout}. Whoever writes them at once need not tell.
   */
  handleBacklog(bytes: number, now: number): void {
    const written = this.backlogBytes - bytes;
    this.backlogBytes = bytes;
    if (this.beforePing === undefined) {
      this.beforePing = bytes;
    } else if (written > 0 && this.beforePing > 0) {
      this.beforePing -= written;
      if (this.pingedMs !== undefined) {
        // As long as what is before it moves, somebody takes it.
        this.pingedMs = now;
      }
    }
    const isWaiting = this.beforePing > 0 || !this.hasRoom();
    this.lookMs = isWaiting ? now + limits.UNSENT_LOOK_MS : Infinity;
  }

  private hasRoom(): boolean {
    return this.outBytes + this.backlogBytes < limits.UNSENT_BYTES_MAX;
  }

  /** Something the app should know. */
  pollEvent(now: number): Event | undefined {
    const event = this.events.shift();
    if (event?.type === "message" && event.syncId !== undefined && this.options.autoAcknowledge !== false) {
      this.acknowledge(event.channel, event.syncId, now);
    }
    if (event?.type === "group-message" && this.options.autoAcknowledge !== false) {
      this.acknowledgeGroup(event.channel, event.group, event.syncId, now);
    }
    return event;
  }

  /** When {@link handleTimeout} (or a connect) is due; Infinity: when something happens. */
  pollTimeout(): number {
    switch (this.state) {
      case "down":
        return this.retryMs;
      case "greeting":
      case "dialling":
        return this.deadlineMs;
      case "leaving":
        return Infinity;
      case "live": {
        const beat = this.pingedMs === undefined ? this.pingDueMs() : this.pingedMs + this.pongMs();
        return Math.min(beat, this.lookMs, ...[...this.channels.values()].map((channel) => channel.nextMs()));
      }
    }
  }

  /** The driver has begun to connect. */
  handleDialling(now: number): void {
    this.state = "dialling";
    this.isDialling = true;
    this.deadlineMs = now + limits.DIAL_MS;
  }

  /** The connection stands. */
  handleConnected(now: number): void {
    this.reader = new FrameReader();
    this.clearOut();
    [this.backlogBytes, this.beforePing, this.lookMs] = [0, 0, Infinity];
    this.answersOwed = [];
    this.state = "greeting";
    this.isDialling = false;
    this.deadlineMs = now + limits.GREETING_MS;
    this.heardMs = now;
    this.pingedMs = undefined;
    const connect = new Writer()
      .number(1, limits.VERSION)
      .text(2, this.options.device)
      .text(3, this.options.agent ?? "moor-web")
      .number(5, this.options.heartbeatMaxMs ?? 0);
    this.send(encodeFrame(Kind.Connect, COMMAND, 0, connect.finish()));
    this.channels.forEach((channel) => channel.sendOpen());
  }

  /** The connection is gone, or could not be made. */
  handleDisconnected(now: number): void {
    if (this.isTalking()) {
      this.events.push({ type: "disconnected", reason: { why: "hung-up" } });
    }
    // Only a connection that lasts shows that all is well: a gateway that takes the login and hangs up is tried less
    // and less often, like one that does not listen.
    if (this.liveMs !== undefined && now >= this.liveMs + limits.STABLE_MS) {
      this.attempt = 0;
    }
    this.liveMs = undefined;
    const pause = fullJitter(limits.RECONNECT_BASE_MS, limits.RECONNECT_CAP_MS, this.attempt, this.random);
    this.attempt += 1;
    this.retryMs = this.returnMs ?? now + pause;
    this.isSentAway = this.returnMs !== undefined;
    this.returnMs = undefined;
    if (this.isDialling) {
      this.isDialling = false;
      this.events.push({ type: "not-connected", retryInMs: Math.round(this.retryMs - now) });
    }
    this.state = "down";
    this.clearOut();
    this.channels.forEach((channel) => channel.handleDisconnected());
  }

  /**
   * The network is back, or another one. A try that was to wait long is made soon, unless a GOAWAY told when; its failure
   * counts as ever. A connection that stands is asked whether it does.
   */
  handleNetworkChange(now: number): void {
    const soonMs = Math.max(now, this.hastenedMs + limits.NETWORK_CHANGE_MS);
    if (this.state === "down" && !this.isSentAway && this.retryMs > soonMs + limits.RECONNECT_BASE_MS) {
      this.retryMs = soonMs + between(0, limits.RECONNECT_BASE_MS, this.random);
      this.hastenedMs = this.retryMs;
    }
    if (this.state === "live" && this.pingedMs === undefined) {
      this.sendPing(now);
    }
  }

  /** Bytes arrived. */
  handleBytes(bytes: Uint8Array, now: number): void {
    if (!this.isTalking()) {
      return;
    }
    try {
      this.reader.push(bytes, (frame) => {
        this.heardMs = now;
        this.pingedMs = undefined;
        this.handleFrame(frame, now);
        return this.isTalking();
      });
    } catch (error) {
      if (!(error instanceof WireError)) {
        throw error;
      }
      this.part({ why: "garbled" });
    }
    if (this.events.length > limits.EVENTS_MAX && this.isTalking()) {
      this.part({ why: "congested" });
    }
  }

  /** Time has passed. */
  handleTimeout(now: number): void {
    if (this.state === "dialling" && now >= this.deadlineMs) {
      this.state = "leaving";
      return;
    }
    if (this.state === "greeting" && now >= this.deadlineMs) {
      return this.part({ why: "silent" });
    }
    if (this.state !== "live") {
      return;
    }
    if (this.pingedMs !== undefined && now >= this.pingedMs + this.pongMs()) {
      return this.part({ why: "silent" });
    }
    let overdue = false;
    const hadRoom = this.hasRoom();
    this.channels.forEach((channel) => {
      overdue = channel.handleTimeout(now) || overdue;
    });
    const [first] = this.channels;
    if (hadRoom && !this.hasRoom() && first !== undefined) {
      // Another one is the first to say what is due the next time.
      this.channels.delete(first[0]);
      this.channels.set(...first);
    }
    // Two reasons to ask: the heartbeat, and an answer that should have come.
    const suspicious = overdue && now >= this.heardMs + limits.ANSWER_MS;
    if (this.pingedMs === undefined && (suspicious || now >= this.pingDueMs())) {
      this.sendPing(now);
    }
  }

  private sendPing(now: number): void {
    this.send(encodeFrame(Kind.Ping, COMMAND, 0, new Uint8Array(0)));
    this.pingedMs = now;
    this.beforePing = undefined;
  }

  private handleFrame({ kind, flags, channel: number, body }: Frame, now: number): void {
    if (CHANNEL_KINDS.has(kind)) {
      if (this.state !== "live") {
        throw new WireError("CONNECTED comes before everything that is about a channel");
      }
      if (number === 0) {
        throw new WireError("number 0 is the connection's");
      }
      const owed = this.answersOwed.indexOf(number);
      if (owed >= 0 && isAnswerToOpen(kind, body)) {
        this.answersOwed.splice(owed, 1);
        return;
      }
      const channel = this.channels.get(number);
      if (channel !== undefined) {
        return this.handleChannelFrame(channel, kind, flags, new Fields(body), now);
      }
      // A channel that was closed meanwhile: what comes for it is of no interest. But nobody owes this answer: it was held
      // for closed before the app gave it up.
      if (kind === Kind.Opened) {
        // A server that opens without end what nobody asked for, and does not read.
        if (!this.hasRoom()) {
          throw new WireError("it opens what nobody asked for");
        }
        this.send(encodeClose(number));
      }
      return;
    }
    // Else who may say something on one channel could end all of them.
    if (number !== 0 && CONNECTION_KINDS.has(kind)) {
      throw new WireError("it is about the connection and names a channel");
    }
    switch (kind) {
      case Kind.Connected:
        return this.handleGreeting(new Fields(body), now);
      case Kind.Ping:
        // A server that asks and does not read: what could not be written yet says that somebody is here.
        if (!this.hasRoom()) {
          return;
        }
        return this.send(encodeFrame(Kind.Pong, COMMAND, 0, body));
      case Kind.Pong:
        return;
      case Kind.GoAway: {
        const away = new Fields(body);
        const min = Math.min(away.number(2), limits.AWAY_MS_MAX);
        const max = Math.min(Math.max(away.number(3), min), limits.AWAY_MS_MAX);
        // No window, or hardly one, is none: the pauses grow as after any other connection that did not last.
        this.returnMs = max < limits.RECONNECT_BASE_MS ? undefined : now + between(min, max, this.random);
        return this.part({ why: "sent-away", code: codeOf(away.number(1)), alternate: away.text(4) });
      }
      case Kind.Error: {
        const error = new Fields(body);
        return this.part({ why: "refused", code: codeOf(error.number(1)), detail: error.text(2) });
      }
      default:
        // Of features that this client does not have: not for it.
        if (isOptional(kind)) {
          return;
        }
        throw new WireError(`no server sends frames of kind ${kind}`);
    }
  }

  private handleChannelFrame(channel: Channel, kind: number, flags: number, fields: Fields, now: number): void {
    switch (kind) {
      case Kind.Opened:
        return channel.handleOpened(fields, now);
      case Kind.Close:
        return channel.handleClose(fields, now);
      case Kind.Data:
        return channel.handleDelivery(fields, classOf(flags), now);
      case Kind.Ack:
        return channel.handleResult(fields, codeOf(fields.number(2)), now);
    }
    // Before OPENED it is about a login that is over.
    if (!channel.isOpen) {
      return;
    }
    switch (kind) {
      case Kind.Group:
        return channel.conversations.handleAnswer(fields, now);
      case Kind.GroupDelivery:
        return channel.conversations.handleDelivery(fields, now);
      case Kind.GroupHeads:
        return channel.conversations.handleHeads(fields, now);
      case Kind.Pulled:
        return channel.conversations.handlePulled(fields, now);
      case Kind.Room:
        return channel.rooms.handleBatch(fields, now);
      case Kind.RoomPulled:
        return channel.rooms.handlePulled(fields, now);
      case Kind.RoomRefused:
        return channel.rooms.handleRefused(fields);
      case Kind.Read:
        return channel.readMarks.handleRead(fields, now);
      case Kind.ReadMarks:
        return channel.readMarks.handleMarks(fields, now);
      case Kind.DeviceAck:
        return channel.readMarks.handleDeviceAck(fields);
    }
  }

  private handleGreeting(connected: Fields, now: number): void {
    if (this.state === "live") {
      throw new WireError("CONNECTED comes once");
    }
    this.state = "live";
    this.liveMs = now;
    const wish = this.options.heartbeatMaxMs || Infinity;
    this.heartbeatMs = Math.max(Math.min(connected.number(3), wish), limits.HEARTBEAT_MS_MIN);
    this.dataBytesMax = Math.min(connected.number(4) || Infinity, limits.CLIENT_BODY_BYTES_MAX);
    this.channels.forEach((channel) => channel.refuseLarger(this.dataBytesMax));
    this.events.push({ type: "connected", gateway: connected.text(2), heartbeatMs: this.heartbeatMs });
  }

  private send(bytes: Uint8Array): void {
    this.out.push(bytes);
    this.outBytes += bytes.length;
  }

  private clearOut(): void {
    this.out = [];
    this.outBytes = 0;
  }

  /** The driver hangs up; the next try comes after the usual pause, or GOAWAY's. */
  private part(reason: Disconnect): void {
    this.state = "leaving";
    this.events.push({ type: "disconnected", reason });
  }

  private isTalking(): boolean {
    return this.state === "greeting" || this.state === "live";
  }

  /** A little earlier than promised. By what this side sent, or by what the server did, which may have died. */
  private pingDueMs(): number {
    return Math.min(this.sentMs, this.heardMs) + Math.floor(this.heartbeatMs * 0.9);
  }

  private pongMs(): number {
    return Math.max(this.heartbeatMs / 2, limits.PONG_MS_MIN);
  }
}

/**
 * About the present login of a channel. It says nothing to whoever logs in there next, and would be taken for theirs; what
 * became of messages and requests is worth knowing even then. One that is delayed is forgotten with its channel.
 */
const OF_LOGIN = [
  "opened", "closed", "message", "expired", "group-message", "group-expired", "group-left", "room", "room-refused",
  "read-mark", "device-ack", "delayed",
] as const;

function isOfLogin(event: Event): event is Extract<Event, { type: (typeof OF_LOGIN)[number] }> {
  return OF_LOGIN.some((type) => type === event.type);
}

/**
 * NOT_FOUND answers a frame that was on its way when its channel ended, never an OPEN; nor does a CLOSE that ends a session.
 */
function isAnswerToOpen(kind: number, body: Uint8Array): boolean {
  if (kind !== Kind.Close) {
    return kind === Kind.Opened;
  }
  const close = new Fields(body);
  return close.bigint(3) === 0n && codeOf(close.number(1)) !== Code.NotFound;
}
