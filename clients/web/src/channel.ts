// One channel of a session: its login and its place in the timeline.

import type { Context } from "./context.js";
import { Conversations } from "./conversations.js";
import { Code, RoomError, SubmitError, codeOf, isRetryable } from "./events.js";
import { COMMAND, Kind, type MessageClass, encodeFrame, encodeSyncId } from "./frame.js";
import type { GroupAct } from "./groups.js";
import { fullJitter } from "./jitter.js";
import * as limits from "./limits.js";
import { nameFault } from "./names.js";
import { type Fields, Writer, utf8 } from "./protobuf.js";
import { ReadMarks } from "./readmarks.js";
import { Rooms } from "./rooms.js";
import type { Message, Target } from "./submit.js";
import { Submits } from "./submits.js";
import { marksOf } from "./traffic.js";

/** The token that lets an account in. */
export type Credential = string | Uint8Array;

/** A login wanted by the app. */
export interface Login {
  readonly app: string;
  readonly account: string;
  /**
   * Where the gateway asks for one. A function is called for every OPEN, and again after a pause where what it returned is
   * not accepted. It must not call the client.
   */
  readonly credential?: Credential | (() => Credential | undefined) | undefined;
  /** What the app holds without a gap; absent: the router goes on from what this device last acknowledged. */
  readonly lastSyncId?: number | undefined;
  /** What the app holds of its groups; of the others likewise. */
  readonly groupPositions?: Readonly<Record<string, number>>;
}

/** A channel the app wants. */
export class Channel {
  /** `waiting`: refused for now. `closed`: refused for good. */
  private state: "opening" | "open" | "waiting" | "closed" = "opening";
  /** The handle of the session that is open, or was last. */
  private session = 0n;
  private reopenMs = 0;
  private attempt = 0;
  /** Highest sync id handed to the app without a gap; `undefined` until the first, when the router decides. */
  private received: number | undefined;
  private processedId: number | undefined;
  /** Behind this the first message came: where a SYNC goes back to while nothing is processed. */
  private begun = 0;
  /** Highest sync id acknowledged on this connection. */
  private acked = 0;
  private ackDueMs: number | undefined;
  /** Last SYNC: behind which id the gap was, and when. */
  private synced: { readonly behind: number; readonly atMs: number } | undefined;
  /**
   * Received ids that hold copies of groups' entries: they wait for nobody, because the group's own timeline says what is
   * processed of it.
   */
  private copies: number[] = [];
  readonly conversations: Conversations;
  readonly rooms: Rooms;
  readonly readMarks: ReadMarks;
  private readonly submits: Submits;

  constructor(
    readonly number: number,
    private readonly login: Login,
    private readonly context: Context,
    wantsReadMarks: boolean,
  ) {
    this.received = this.processedId = login.lastSyncId;
    this.conversations = new Conversations(number, login.account, context, login.groupPositions ?? {});
    this.rooms = new Rooms(number, context);
    this.readMarks = new ReadMarks(number, context, wantsReadMarks);
    this.submits = new Submits(number, context);
  }

  /** Why no gateway would take this login. What it would not take could cost the whole connection. */
  refusal(): { readonly code: Code; readonly reason: string } | undefined {
    const { app, account, credential, lastSyncId, groupPositions = {} } = this.login;
    const tooLarge = typeof credential === "function" ? undefined : credentialFault(bytesOf(credential));
    if (tooLarge !== undefined) {
      return { code: Code.TooLarge, reason: tooLarge };
    }
    let reason =
      nameFault("app", app, limits.APP_BYTES_MAX) ?? nameFault("account", account, limits.ACCOUNT_BYTES_MAX);
    if (!Number.isInteger(this.number) || this.number < 1 || this.number > limits.CHANNEL_MAX) {
      reason = `there is no channel ${this.number}: take 1 to ${limits.CHANNEL_MAX}`;
    }
    for (const syncId of [lastSyncId ?? 0, ...Object.values(groupPositions)]) {
      if (!Number.isSafeInteger(syncId) || syncId < 0) {
        reason = `${syncId} is no sync id`;
      }
    }
    for (const group of Object.keys(groupPositions)) {
      reason ??= nameFault("group", group, limits.GROUP_BYTES_MAX);
    }
    return reason === undefined ? undefined : { code: Code.Invalid, reason };
  }

  /** Highest sync id the app has processed. */
  get processed(): number | undefined {
    return this.processedId;
  }
  get isOpen(): boolean {
    return this.state === "open";
  }
  get isOpening(): boolean {
    return this.state === "opening";
  }
  get unanswered(): number {
    return this.submits.unanswered;
  }

  /** When {@link handleTimeout} is due. */
  nextMs(): number {
    if (this.state === "waiting") {
      return this.reopenMs;
    }
    if (this.state !== "open") {
      return Infinity;
    }
    const own = Math.min(this.ackDueMs ?? Infinity, this.submits.nextMs());
    return Math.min(own, this.conversations.nextMs(), this.rooms.nextMs(), this.readMarks.nextMs());
  }

  sendOpen(): void {
    if (this.state === "closed") {
      return;
    }
    let credential: Uint8Array;
    try {
      const { credential: own } = this.login;
      credential = bytesOf(typeof own === "function" ? own() : own);
    } catch (error) {
      return this.end(Code.Unauthorized, `there is no credential: ${error}`);
    }
    const tooLarge = credentialFault(credential);
    if (tooLarge !== undefined) {
      return this.end(Code.TooLarge, tooLarge);
    }
    this.state = "opening";
    const open = new Writer()
      .text(1, this.login.app)
      .text(2, this.login.account)
      .bytes(3, credential);
    if (this.processedId !== undefined) {
      open.present(4, this.processedId);
    }
    this.context.send(encodeFrame(Kind.Open, COMMAND, this.number, open.finish()));
  }

  /** Says CLOSE where the server knows of the channel. True: an answer to OPEN is still owed. */
  sendClose(): boolean {
    if (this.state !== "opening" && this.state !== "open") {
      return false;
    }
    const opening = this.isOpening;
    if (this.isOpen) {
      // What is processed but not acknowledged yet would come again at the next login.
      this.sendAck();
      this.conversations.sendAcks();
    }
    this.context.send(encodeClose(this.number));
    return opening;
  }

  handleDisconnected(): void {
    if (this.state !== "closed") {
      this.state = "opening";
    }
    this.ackDueMs = undefined;
    this.acked = 0;
    this.synced = undefined;
    this.conversations.handleDisconnected();
    this.rooms.handleDisconnected();
    this.readMarks.handleDisconnected();
    this.submits.handleDisconnected();
  }

  handleOpened(opened: Fields, now: number): void {
    if (this.state === "waiting" || this.state === "closed") {
      // From a gateway that does not name the session in a CLOSE: that of the login before this one came when its CLOSE was
      // said already, and was taken for this one's refusal. What the gateway has opened there is not wanted any more, and
      // stands in the way of the next OPEN.
      return this.context.send(encodeClose(this.number));
    }
    if (this.state === "open") {
      return;
    }
    this.state = "open";
    this.session = opened.bigint(1);
    this.attempt = 0;
    this.context.emit({ type: "opened", channel: this.number, session: this.session });
    this.readMarks.handleOpened(now);
    this.rooms.sendAll();
    this.submits.handleTimeout(now);
    this.conversations.handleTimeout(now);
  }

  handleClose(close: Fields, now: number): void {
    const [code, reason, session] = [codeOf(close.number(1)), close.text(2), close.bigint(3)];
    // One of a login that is over here; it has crossed its CLOSE.
    if (session !== 0n && !(this.isOpen && session === this.session)) {
      return;
    }
    // A channel ends once. NOT_FOUND answers a frame that was on its way when the channel ended, never an OPEN.
    if (this.state === "waiting" || this.state === "closed") {
      return;
    }
    if (this.state === "opening" && code === Code.NotFound) {
      return;
    }
    const pauses = pausesBeforeReopening(code, this.isOpening, typeof this.login.credential === "function");
    if (pauses === undefined) {
      return this.end(code, reason);
    }
    this.handleDisconnected();
    this.state = "waiting";
    this.attempt += 1;
    this.reopenMs = now + fullJitter(...pauses, this.attempt, this.context.random);
    this.context.emit({ type: "closed", channel: this.number, code, reason, reopens: true });
  }

  /** Closes it for good. */
  private end(code: Code, reason: string): void {
    this.handleDisconnected();
    this.state = "closed";
    this.submits.handleClosed(code);
    this.conversations.handleClosed(code);
    this.context.emit({ type: "closed", channel: this.number, code, reason, reopens: false });
  }

  /** `name`: the class it came with. */
  handleDelivery(delivery: Fields, name: MessageClass, now: number): void {
    // Before OPENED it belongs to a login that is over.
    if (this.state !== "open") {
      return;
    }
    const id = delivery.number(1);
    if (id === 0) {
      return this.emitMessage(delivery, undefined, name);
    }
    if (this.received === undefined) {
      this.begun = id - 1;
    } else if (id <= this.received) {
      // The router has not heard of what is here: tell it again.
      if (this.processedId !== undefined) {
        this.acked = Math.min(this.acked, Math.max(0, this.processedId - 1));
        this.ackDueMs ??= now + limits.ACK_DELAY_MS;
      }
      return;
    } else if (this.handleGap(id, Math.min(delivery.number(5), id), now)) {
      return;
    }
    this.received = id;
    if (delivery.text(7) === "") {
      this.emitMessage(delivery, id, "reliable");
    } else {
      this.conversations.handleCopy(delivery, now);
      this.copies.push(id);
      if (this.passCopies()) {
        this.ackDueMs ??= now + limits.ACK_DELAY_MS;
      }
    }
  }

  /** Copies right behind what is processed are processed as well. True: there were some. */
  private passCopies(): boolean {
    let passed = 0;
    for (const id of this.copies) {
      const next = (this.processedId ?? this.begun) + 1;
      if (id > next) {
        break;
      }
      if (id === next) {
        this.processedId = id;
      }
      passed += 1;
    }
    this.copies.splice(0, passed);
    return passed > 0;
  }

  /** Passes over what is past retention. True: something is missing that can still come. */
  private handleGap(id: number, floor: number, now: number): boolean {
    const received = this.received ?? 0;
    let next = received + 1;
    if (floor > next) {
      this.context.emit({ type: "expired", channel: this.number, first: next, last: floor - 1 });
      next = floor;
      this.received = floor - 1;
      // Only when nothing the app still works on would be acknowledged with it.
      if (this.processedId === received) {
        this.processedId = this.received;
      }
    }
    if (id > next) {
      this.sendSync(now);
      return true;
    }
    return false;
  }

  private emitMessage(delivery: Fields, syncId: number | undefined, name: MessageClass): void {
    this.context.emit({
      type: "message",
      channel: this.number,
      syncId,
      class: name,
      from: delivery.text(2),
      clientId: delivery.bytes(3),
      sentAtMs: delivery.number(4),
      payload: delivery.bytes(6),
      marks: marksOf(delivery, 10),
    });
  }

  /** Asks for what is missing: once, and again when it did not help. Like OPEN it names what is processed. */
  private sendSync(now: number): void {
    const behind = this.received ?? 0;
    if (this.synced?.behind === behind && now < this.synced.atMs + limits.SYNC_REPEAT_MS) {
      return;
    }
    this.synced = { behind, atMs: now };
    this.context.send(encodeSyncId(Kind.Sync, this.number, this.processedId ?? this.begun));
  }

  acknowledge(syncId: number, now: number): void {
    // What was not received cannot be processed.
    if (this.received === undefined || (this.processedId !== undefined && syncId <= this.processedId)) {
      return;
    }
    this.processedId = Math.min(syncId, this.received);
    this.passCopies();
    if (!this.isOpen) {
      return;
    }
    if (this.acked > 0 && this.processedId - this.acked >= limits.ACK_EVERY) {
      this.sendAck();
    } else {
      this.ackDueMs ??= now + limits.ACK_DELAY_MS;
    }
  }

  private sendAck(): void {
    this.ackDueMs = undefined;
    if (this.processedId !== undefined && this.processedId > this.acked) {
      this.acked = this.processedId;
      this.context.send(encodeSyncId(Kind.Ack, this.number, this.processedId));
    }
  }

  ask(id: number, group: string, act: GroupAct, bodyBytesMax: number, now: number): void {
    if (this.state === "closed") {
      throw new SubmitError("no-channel", `channel ${this.number} was closed for good: open it first`);
    }
    this.conversations.ask(id, group, act, bodyBytesMax);
    if (this.isOpen) {
      this.conversations.handleTimeout(now);
    }
  }

  markRead(conversation: Target, syncId: number, now: number): void {
    if (this.state === "closed") {
      throw new SubmitError("no-channel", `channel ${this.number} was closed for good: open it first`);
    }
    this.readMarks.set(conversation, syncId);
    if (this.isOpen) {
      this.readMarks.handleTimeout(now);
    }
  }

  enter(room: string, lastId: number | undefined): void {
    if (this.state === "closed") {
      throw new RoomError("no-channel", `channel ${this.number} was closed for good: open it first`);
    }
    if (this.rooms.enter(room, lastId) && this.isOpen) {
      this.rooms.sendEnter(room);
    }
  }

  leave(room: string): void {
    if (this.rooms.leave(room) && this.isOpen) {
      this.rooms.sendLeave(room);
    }
  }

  submit(message: Message, dataBytesMax: number, now: number): void {
    if (this.state === "closed") {
      throw new SubmitError("no-channel", `channel ${this.number} was closed for good: open it first`);
    }
    this.submits.offer(message, dataBytesMax, this.isOpen, now);
  }

  /** The new gateway takes bodies up to this size: what is larger will not be accepted there. */
  refuseLarger(dataBytesMax: number): void {
    this.conversations.refuseLarger(dataBytesMax);
    this.submits.refuseLarger(dataBytesMax);
  }

  handleResult(result: Fields, code: Code, now: number): void {
    // Before OPENED it may belong to another account's login. Should it have been ours, the submit goes out again
    // and is answered as a duplicate.
    if (this.state !== "open") {
      return;
    }
    this.submits.handleResult(result, code, now);
  }

  /** True when a submit was not answered in time. */
  handleTimeout(now: number): boolean {
    if (this.state === "waiting" && now >= this.reopenMs) {
      this.sendOpen();
    }
    if (this.ackDueMs !== undefined && now >= this.ackDueMs) {
      this.sendAck();
    }
    if (this.isOpen) {
      this.conversations.handleTimeout(now);
      this.rooms.handleTimeout(now);
      this.readMarks.handleTimeout(now);
    }
    return this.isOpen && this.submits.handleTimeout(now);
  }
}

/** Base and cap of the pauses before a channel that was closed with this code is opened again; `undefined`: never. */
function pausesBeforeReopening(
  code: Code,
  isRefused: boolean,
  mayRenew: boolean,
): readonly [number, number] | undefined {
  // A full house, in which others make room sooner or later. A session that is ended with it is one too many of its own
  // device: coming back would only end another.
  const isFull = code === Code.Limit && isRefused;
  // The app may have another credential by then.
  if (isFull || (code === Code.Unauthorized && mayRenew)) {
    return [limits.RECONNECT_BASE_MS, limits.RECONNECT_CAP_MS];
  }
  return isRetryable(code) ? [limits.RETRY_BASE_MS, limits.RETRY_CAP_MS] : undefined;
}

function bytesOf(credential: Credential = ""): Uint8Array {
  return typeof credential === "string" ? utf8(credential) : credential;
}

/** Says what is wrong with a credential; `undefined`: nothing. */
function credentialFault({ length }: Uint8Array): string | undefined {
  return length > limits.CREDENTIAL_BYTES_MAX
    ? `the credential has ${length} bytes; at most ${limits.CREDENTIAL_BYTES_MAX} are allowed`
    : undefined;
}

/** CLOSE, as the app's own wish. */
export function encodeClose(channel: number): Uint8Array {
  return encodeFrame(Kind.Close, COMMAND, channel, new Writer().number(1, Code.Normal).finish());
}
