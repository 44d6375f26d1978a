// Read marks of one channel: those the app has set and the router has not confirmed, up to which version this device has
// those of the account's other devices, and what these have acknowledged.

import type { Context } from "./context.js";
import { SubmitError } from "./events.js";
import { COMMAND, Kind, encodeFrame, encodeSyncId } from "./frame.js";
import * as limits from "./limits.js";
import { type Fields, Writer } from "./protobuf.js";
import { type Target, targetFault } from "./submit.js";

/** Kinds of conversations. */
const [PEER, GROUP] = [0, 1];

/** A mark of the app that is not confirmed. */
interface Pending {
  readonly body: Uint8Array;
  readonly syncId: number;
  /** When it is said again. */
  dueMs: number;
}

/** A channel's read marks. Only an open channel calls what says something. */
export class ReadMarks {
  /** Up to this version there is no mark that this device does not have. */
  private known = 0;
  /** When the marks behind that were asked for, without an answer yet. */
  private askedMs: number | undefined;
  /** By kind and name of the conversation. */
  private readonly pending = new Map<string, Pending>();

  /** `isWanted`: the app wants to know what other devices have read. */
  constructor(
    private readonly channel: number,
    private readonly context: Context,
    private readonly isWanted: boolean,
  ) {}

  /** Takes a mark of the app; {@link handleTimeout} says it. */
  set(conversation: Target, syncId: number): void {
    const fault = targetFault(conversation);
    if (fault !== undefined) {
      throw new SubmitError("name", fault);
    }
    if (!Number.isSafeInteger(syncId) || syncId < 0) {
      throw new SubmitError("sync-id", `${syncId} is no sync id`);
    }
    const [kind, name] = typeof conversation === "string" ? [PEER, conversation] : [GROUP, conversation.group];
    const key = keyOf(kind, name);
    const known = this.pending.get(key);
    if (known !== undefined && known.syncId >= syncId) {
      return;
    }
    if (known === undefined && this.pending.size >= limits.READ_MARKS_PENDING_MAX) {
      throw new SubmitError("queue-full", "too many read marks wait to be confirmed: wait too");
    }
    const body = new Writer().number(1, kind).text(2, name).number(3, syncId).finish();
    this.pending.set(key, { body, syncId, dueMs: 0 });
  }

  /** When {@link handleTimeout} is due. */
  nextMs(): number {
    let next = this.askedMs === undefined ? Infinity : this.askedMs + limits.ANSWER_MS;
    for (const { dueMs } of this.pending.values()) {
      next = Math.min(next, dueMs);
    }
    return next;
  }

  handleDisconnected(): void {
    this.askedMs = undefined;
    this.pending.forEach((pending) => (pending.dueMs = 0));
  }

  handleOpened(now: number): void {
    if (this.isWanted) {
      this.ask(now);
    }
    this.handleTimeout(now);
  }

  private ask(now: number): void {
    this.askedMs = now;
    this.context.send(encodeSyncId(Kind.ReadMarks, this.channel, this.known));
  }

  /** Says what is due. */
  handleTimeout(now: number): void {
    if (this.askedMs !== undefined && now >= this.askedMs + limits.ANSWER_MS) {
      this.ask(now);
    }
    for (const pending of this.pending.values()) {
      if (pending.dueMs <= now) {
        pending.dueMs = now + limits.ANSWER_MS;
        this.context.send(encodeFrame(Kind.Read, COMMAND, this.channel, pending.body));
      }
    }
  }

  /** READ: a mark was stored, of this device or another. */
  handleRead(mark: Fields, now: number): void {
    const version = mark.number(4);
    if (version === this.known + 1) {
      this.known = version;
    } else if (version > this.known && this.isWanted && this.askedMs === undefined) {
      // One in between did not arrive.
      this.ask(now);
    }
    this.take(mark);
  }

  /** READ_MARKS: what was asked for, or a page of it. */
  handleMarks(page: Fields, now: number): void {
    const isMore = page.bigint(3) !== 0n;
    this.known = Math.max(this.known, page.number(2));
    this.askedMs = isMore ? now : undefined;
    page.messages(1).forEach((mark) => this.take(mark));
  }

  private take(mark: Fields): void {
    const [kind, name, syncId] = [mark.number(1), mark.text(2), mark.clamped(3)];
    const key = keyOf(kind, name);
    const pending = this.pending.get(key);
    if (pending !== undefined && pending.syncId <= syncId) {
      this.pending.delete(key);
    }
    const conversation = kind === GROUP ? { group: name } : name;
    this.context.emit({ type: "read-mark", channel: this.channel, conversation, syncId });
  }

  /** DEVICE_ACK: another device of the account has acknowledged its messages. */
  handleDeviceAck(ack: Fields): void {
    this.context.emit({ type: "device-ack", channel: this.channel, device: ack.text(1), syncId: ack.clamped(2) });
  }
}

function keyOf(kind: number, name: string): string {
  return `${kind} ${name}`;
}
