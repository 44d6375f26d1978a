// The unanswered submits of one channel: kept until they are answered, and sent again until then.

import type { Context } from "./context.js";
import { Code, SubmitError, isRetryable } from "./events.js";
import { Kind, RELIABLE, encodeFrame } from "./frame.js";
import { fullJitter } from "./jitter.js";
import * as limits from "./limits.js";
import { type Fields, equal } from "./protobuf.js";
import { type Addressee, encodeSubmit } from "./submit.js";

interface Pending {
  readonly clientId: Uint8Array;
  readonly body: Uint8Array;
  readonly payloadBytes: number;
  attempt: number;
  /** On the wire: when it is sent again. Not on the wire: when it may be sent. */
  dueMs: number;
  inFlight: boolean;
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

  /** When {@link sendDue} is due. */
  nextMs(): number {
    const full = this.inFlight() >= limits.SUBMITS_IN_FLIGHT_MAX;
    let next = Infinity;
    for (const pending of this.pending) {
      if (pending.inFlight || !full) {
        next = Math.min(next, pending.dueMs);
      }
    }
    return next;
  }

  handleDisconnected(): void {
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

  /** Takes a message of the app; {@link sendDue} sends it. */
  offer(clientId: Uint8Array, to: Addressee, payload: Uint8Array, dataBytesMax: number): void {
    const body = encodeSubmit(clientId, to, payload);
    if (body.length > dataBytesMax) {
      throw new SubmitError("too-large", tooLarge(body.length, dataBytesMax));
    }
    const bytes = this.pendingBytes + payload.length;
    if (this.pending.length >= limits.SUBMITS_PENDING_MAX || bytes > limits.SUBMITS_PENDING_BYTES_MAX) {
      throw new SubmitError("queue-full", "too many messages wait for their answers: wait too");
    }
    this.pendingBytes = bytes;
    const own = clientId.slice();
    this.pending.push({
      clientId: own, body, payloadBytes: payload.length, attempt: 0, dueMs: 0, inFlight: false,
    });
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
    if (isRetryable(code)) {
      pending.attempt += 1;
      pending.inFlight = false;
      const pause = fullJitter(limits.RETRY_BASE_MS, limits.RETRY_CAP_MS, pending.attempt, this.context.random);
      pending.dueMs = now + 1 + pause;
      return;
    }
    this.pending.splice(at, 1);
    this.pendingBytes -= pending.payloadBytes;
    const { channel } = this;
    if (code === Code.Ok) {
      const duplicate = result.bigint(4) !== 0n;
      this.context.emit({ type: "accepted", channel, clientId, syncId: result.number(3), duplicate });
    } else {
      this.context.emit({ type: "refused", channel, clientId, code, detail: result.text(5) });
    }
  }

  /** Sends what is due. True when something had been sent before and was not answered in time. */
  sendDue(now: number): boolean {
    let overdue = false;
    let places = limits.SUBMITS_IN_FLIGHT_MAX - this.inFlight();
    for (const pending of this.pending) {
      if (pending.dueMs > now || (!pending.inFlight && places <= 0)) {
        continue;
      }
      const again = pending.inFlight;
      pending.dueMs = now + limits.ANSWER_MS;
      if (again) {
        overdue = true;
        // What could not be written yet is not written again on top.
        if (this.context.unsentBytes() >= limits.RESEND_BACKLOG_BYTES_MAX) {
          continue;
        }
      } else {
        places -= 1;
        pending.inFlight = true;
      }
      this.context.send(encodeFrame(Kind.Data, RELIABLE, this.channel, pending.body));
    }
    return overdue;
  }

  private inFlight(): number {
    return this.pending.reduce((sum, { inFlight }) => sum + Number(inFlight), 0);
  }
}

function tooLarge(length: number, max: number): string {
  return `the message has ${length} bytes with its envelope; the gateway takes at most ${max}: send less`;
}
