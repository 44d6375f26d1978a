// The unanswered submits of one channel. Reliable ones are kept and sent again until they are answered; the others are sent
// once, and given up when the answer does not come.

import type { Context } from "./context.js";
import { Code, SubmitError, isRetryable } from "./events.js";
import { Kind, classOf, encodeFrame } from "./frame.js";
import { fullJitter } from "./jitter.js";
import * as limits from "./limits.js";
import { type Fields, equal } from "./protobuf.js";
import { type Message, encodeSubmit, submitFlags } from "./submit.js";

interface Pending {
  readonly clientId: Uint8Array;
  readonly flags: number;
  readonly body: Uint8Array;
  readonly payloadBytes: number;
  attempt: number;
  /** On the wire: when it is sent again, or given up. Not on the wire: when it may be sent. */
  dueMs: number;
  inFlight: boolean;
  /** What the app was told of why it is not accepted yet. */
  delay: { readonly code: Code; readonly detail: string } | undefined;
}

/** A channel's submits. Only an open channel calls what says something. */
export class Submits {
  private pending: Pending[] = [];
  private pendingBytes = 0;

  constructor(
    private readonly channel: number,
    private readonly context: Context,
  ) {}

  get unanswered(): number {
    return this.pending.length;
  }

  /** When {@link handleTimeout} is due. */
  nextMs(): number {
    const hasPlace = this.context.hasRoom() && this.inFlight() < limits.SUBMITS_IN_FLIGHT_MAX;
    let next = Infinity;
    for (const pending of this.pending) {
      if (pending.inFlight || hasPlace) {
        next = Math.min(next, pending.dueMs);
      }
    }
    return next;
  }

  handleDisconnected(): void {
    this.giveUp("the login ended before the answer came", () => true);
    for (const pending of this.pending) {
      pending.inFlight = false;
      pending.dueMs = 0;
    }
  }

  /** The channel is closed for good: nothing will be answered. */
  handleClosed(code: Code): void {
    for (const { clientId } of this.pending.splice(0)) {
      this.context.emit({ type: "abandoned", channel: this.channel, clientId, code });
    }
    this.pendingBytes = 0;
  }

  /** Takes a message of the app and, where the channel is open, says it. */
  offer(message: Message, dataBytesMax: number, isOpen: boolean, now: number): void {
    const flags = submitFlags(message);
    const body = encodeSubmit(message);
    if (body.length > dataBytesMax) {
      throw new SubmitError("too-large", tooLarge(body.length, dataBytesMax));
    }
    const payloadBytes = message.payload.length;
    const bytes = this.pendingBytes + payloadBytes;
    const isFull = this.pending.length >= limits.SUBMITS_PENDING_MAX || bytes > limits.SUBMITS_PENDING_BYTES_MAX;
    const clientId = message.clientId.slice();
    const pending: Pending = {
      clientId, flags, body, payloadBytes, attempt: 0, dueMs: 0, inFlight: false, delay: undefined,
    };
    const isOnce = !isKept(pending);
    if (isOnce && !isOpen) {
      throw new SubmitError("offline", `channel ${this.channel} is not logged in: what is not kept cannot wait for it`);
    }
    // What is sent once waits for nobody's answer, and behind nothing that cannot be written.
    const hasPlace = this.context.hasRoom() && this.inFlight() < limits.SUBMITS_IN_FLIGHT_MAX;
    if (isFull || (isOnce && !hasPlace)) {
      throw new SubmitError("queue-full", "too many messages wait for their answers: wait too");
    }
    this.pendingBytes = bytes;
    this.pending.push(pending);
    if (isOnce) {
      this.send(pending, now);
    } else if (isOpen) {
      this.sendDue(now);
    }
  }

  /** The new gateway takes bodies up to this size: what is larger will not be accepted there. */
  refuseLarger(dataBytesMax: number): void {
    const refused = this.pending.filter(({ body }) => body.length > dataBytesMax);
    this.pending = this.pending.filter(({ body }) => body.length <= dataBytesMax);
    for (const { clientId, body, payloadBytes } of refused) {
      this.pendingBytes -= payloadBytes;
      const detail = tooLarge(body.length, dataBytesMax);
      this.context.emit({ type: "refused", channel: this.channel, clientId, code: Code.TooLarge, detail });
    }
  }

  handleResult(result: Fields, code: Code, now: number): void {
    const clientId = result.bytes(1);
    const at = this.pending.findIndex((pending) => equal(pending.clientId, clientId));
    const pending = this.pending[at];
    if (pending === undefined) {
      // A second answer to a submit that was sent twice.
      return;
    }
    const detail = result.text(5);
    const { channel } = this;
    if (isRetryable(code) && isKept(pending)) {
      pending.attempt += 1;
      pending.inFlight = false;
      const pause = fullJitter(limits.RETRY_BASE_MS, limits.RETRY_CAP_MS, pending.attempt, this.context.random);
      pending.dueMs = now + 1 + pause;
      if (pending.delay?.code !== code || pending.delay.detail !== detail) {
        pending.delay = { code, detail };
        this.context.emit({ type: "delayed", channel, clientId, code, detail });
      }
      return;
    }
    this.pending.splice(at, 1);
    this.pendingBytes -= pending.payloadBytes;
    if (code === Code.Ok) {
      const duplicate = result.bigint(4) !== 0n;
      this.context.emit({ type: "accepted", channel, clientId, syncId: result.number(3), duplicate });
    } else {
      this.context.emit({ type: "refused", channel, clientId, code, detail });
    }
  }

  /** True when something that is kept was not answered in time. */
  handleTimeout(now: number): boolean {
    this.giveUp("no answer came in time", ({ dueMs }) => dueMs <= now);
    return this.sendDue(now);
  }

  /** Forgets messages that are sent once and were not answered. */
  private giveUp(why: string, isOver: (pending: Pending) => boolean): void {
    const isLost = (pending: Pending): boolean => !isKept(pending) && isOver(pending);
    const lost = this.pending.filter(isLost);
    this.pending = this.pending.filter((pending) => !isLost(pending));
    for (const { clientId, payloadBytes } of lost) {
      this.pendingBytes -= payloadBytes;
      const detail = `${why}; it may have arrived`;
      this.context.emit({ type: "refused", channel: this.channel, clientId, code: Code.Unavailable, detail });
    }
  }

  /** Sends what is due, as far as there is room for it. True when something had been sent before. */
  private sendDue(now: number): boolean {
    let overdue = false;
    let places = limits.SUBMITS_IN_FLIGHT_MAX - this.inFlight();
    for (const pending of this.pending) {
      if (!isKept(pending) || pending.dueMs > now) {
        continue;
      }
      const hasRoom = this.context.hasRoom();
      if (pending.inFlight) {
        overdue = true;
        // What could not be written yet is not written again on top.
        if (!hasRoom) {
          pending.dueMs = now + limits.ANSWER_MS;
          continue;
        }
      } else {
        if (!hasRoom || places <= 0) {
          continue;
        }
        places -= 1;
      }
      this.send(pending, now);
    }
    return overdue;
  }

  private send(pending: Pending, now: number): void {
    pending.inFlight = true;
    pending.dueMs = now + limits.ANSWER_MS;
    this.context.send(encodeFrame(Kind.Data, pending.flags, this.channel, pending.body));
  }

  private inFlight(): number {
    return this.pending.reduce((sum, { inFlight }) => sum + Number(inFlight), 0);
  }
}

function isKept({ flags }: Pending): boolean {
  return classOf(flags) === "reliable";
}

function tooLarge(length: number, max: number): string {
  return `the message has ${length} bytes with its envelope; the gateway takes at most ${max}: send less`;
}
