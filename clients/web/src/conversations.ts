// The groups of one channel: what of each has been received, what the app has processed, what is being pulled, and
// what is asked about them.
//
// Entries come by three ways: copied into the account's own timeline, pushed from the group's, and pulled. All of them
// carry the place in the group's timeline, and only that counts here: the next one is handed on, a known one is dropped,
// and anything further ahead is pulled up to.

import type { Context } from "./context.js";
import { Code, SubmitError, codeOf, isRetryable } from "./events.js";
import { COMMAND, Kind, encodeFrame } from "./frame.js";
import { type GroupAct, decodeAnswer, decodeEvent, encodeRequest } from "./groups.js";
import { fullJitter } from "./jitter.js";
import * as limits from "./limits.js";
import { type Fields, Writer } from "./protobuf.js";
import { type TrafficMarks, marksOf } from "./traffic.js";

interface Conversation {
  /** Handed to the app without a gap; `undefined` until the router has said where this device left off. */
  received: number | undefined;
  /** The app has processed. */
  processed: number | undefined;
  /** The router has it from this device, as far as is known: it tells where it has less than `head` at each login. */
  acked: number;
  /** The newest entry heard of. */
  head: number;
  priority: number;
  /** Something is to be pulled, not before this time. */
  wantedMs: number | undefined;
  /** The PULL under way, when it is said again, and the newest entry heard of before it. */
  pull: { readonly id: number; readonly dueMs: number; readonly heard: number } | undefined;
  /** The greater, the later something was last heard of it. */
  heard: number;
}

/** An entry of a group's timeline, whichever way it came. */
interface Entry {
  readonly group: string;
  readonly syncId: number;
  readonly from: string;
  readonly clientId: Uint8Array;
  readonly sentAtMs: number;
  readonly payload: Uint8Array;
  readonly marks: TrafficMarks;
  readonly isEvent: boolean;
}

interface Ask {
  readonly id: number;
  readonly body: Uint8Array;
  /** It changes nothing. */
  readonly isLook: boolean;
  /** On the wire, or refused for now: when it is said again. Otherwise it waits for the login, or for room to write. */
  dueMs: number | undefined;
  /** How often it was refused for now. */
  attempt: number;
}

/** A channel's groups. Only an open channel calls what says something. */
export class Conversations {
  private readonly list = new Map<string, Conversation>();
  /** Groups that are followed no more, and up to where they are to be acknowledged. */
  private readonly left = new Map<string, number>();
  /** Groups that were told of when every place was taken by one of which something is owed, in that order. */
  private readonly waiting = new Set<string>();
  private ackDueMs: number | undefined;
  private nextId = 0;
  /** What was last given to `heard` of a conversation. */
  private heard = 0;
  private asks: Ask[] = [];

  /** `positions`: what the app holds of its groups from an earlier run. */
  constructor(
    private readonly channel: number,
    private readonly account: string,
    private readonly context: Context,
    positions: Readonly<Record<string, number>>,
  ) {
    for (const [group, syncId] of Object.entries(positions)) {
      if (this.list.size < limits.CONVERSATIONS_MAX) {
        begin(this.conversation(group), syncId);
      }
    }
  }

  /** What the app has processed of each group. */
  positions(): Record<string, number> {
    const known = [...this.list].flatMap(([group, { processed }]) =>
      processed === undefined ? [] : [[group, processed] as const],
    );
    return Object.fromEntries(known);
  }

  /** When {@link handleTimeout} is due. */
  nextMs(): number {
    let next = this.ackDueMs ?? Infinity;
    const isFull = this.pulls() >= limits.PULLS_IN_FLIGHT_MAX;
    for (const { wantedMs, pull } of this.list.values()) {
      next = Math.min(next, pull?.dueMs ?? (isFull ? Infinity : (wantedMs ?? Infinity)));
    }
    const unsaidMs = this.context.hasRoom() ? 0 : Infinity;
    return this.asks.reduce((least, { dueMs }) => Math.min(least, dueMs ?? unsaidMs), next);
  }

  handleDisconnected(): void {
    this.ackDueMs = undefined;
    this.left.clear();
    this.waiting.clear();
    for (const conversation of this.list.values()) {
      if (conversation.pull !== undefined) {
        conversation.pull = undefined;
        conversation.wantedMs = 0;
      }
    }
    this.asks.forEach((ask) => (ask.dueMs = undefined));
  }

  /** The channel is closed for good: nothing that was asked will be answered. */
  handleClosed(code: Code): void {
    for (const { id } of this.asks.splice(0)) {
      this.answer(id, code, "the channel was closed before the answer came: it may have been done");
    }
  }

  /** GROUP_DELIVERY. */
  handleDelivery(delivery: Fields, now: number): void {
    this.handleEntry(entryOf(delivery, delivery.text(1), 2, [3, 4, 5, 7, 8, 9]), now);
  }

  /** A copy in the account's own timeline. Lost after this, it is pulled from the group's. */
  handleCopy(delivery: Fields, now: number): void {
    this.handleEntry(entryOf(delivery, delivery.text(7), 8, DELIVERY_FIELDS), now);
  }

  private handleEntry(entry: Entry, now: number): void {
    const conversation = this.place(entry.group);
    if (conversation === undefined) {
      return;
    }
    const { received, processed } = conversation;
    conversation.head = Math.max(conversation.head, entry.syncId);
    if (received !== undefined && entry.syncId <= received) {
      // The router has not heard of what is here: tell it again.
      if (processed !== undefined) {
        conversation.acked = Math.min(conversation.acked, Math.max(0, processed - 1));
        this.ackDueMs ??= now + limits.ACK_DELAY_MS;
      }
    } else if (received !== undefined && entry.syncId === received + 1) {
      this.handOn(conversation, entry, now);
    } else {
      conversation.wantedMs ??= now;
      this.sendPulls(now);
    }
  }

  /** The next entry of a group goes to the app. */
  private handOn(conversation: Conversation, entry: Entry, now: number): void {
    conversation.received = entry.syncId;
    // A range that was to be pulled has come by itself.
    if (!isBehind(conversation)) {
      conversation.wantedMs = undefined;
    }
    const { isEvent, ...message } = entry;
    const event = isEvent ? decodeEvent(entry.payload) : undefined;
    const { channel } = this;
    this.context.emit({ type: "group-message", channel, ...message, event });
    if (event !== undefined && (event.dissolved || event.removed.includes(this.account))) {
      this.forget(entry.group, entry.syncId, now);
    }
  }

  /**
   * The account is no member any more. What was heard of the group is acknowledged, or the router would tell of it again,
   * and each time it would be found to be no group of the account's. Nothing can come behind it that the app might lose.
   */
  private forget(group: string, heard: number, now: number): void {
    this.list.delete(group);
    this.left.set(group, heard);
    this.ackDueMs ??= now + limits.ACK_DELAY_MS;
    this.context.emit({ type: "group-left", channel: this.channel, group });
  }

  /** GROUP_HEADS: where the device is behind, the most important first. */
  handleHeads(heads: Fields, now: number): void {
    for (const head of heads.messages(1)) {
      const conversation = this.place(head.text(1));
      if (conversation === undefined) {
        continue;
      }
      const acked = head.optional(4);
      conversation.head = Math.max(conversation.head, head.number(2));
      conversation.priority = head.number(5);
      if (acked !== undefined && conversation.received === undefined) {
        begin(conversation, acked);
      }
      if (isBehind(conversation)) {
        conversation.wantedMs ??= now;
      }
      if (conversation.processed !== undefined && (acked ?? 0) < conversation.processed) {
        conversation.acked = 0;
        this.ackDueMs ??= now + limits.ACK_DELAY_MS;
      }
    }
    this.sendPulls(now);
  }

  /** A range came. */
  handlePulled(pulled: Fields, now: number): void {
    const group = pulled.text(4);
    const conversation = this.list.get(group);
    // The answer to one that was said again finds nothing.
    if (conversation?.pull?.id !== pulled.number(1)) {
      return;
    }
    const { heard } = conversation.pull;
    const messages = pulled.messages(6).map((message) => entryOf(message, group, 1, DELIVERY_FIELDS));
    const [after, head, through] = [pulled.number(5), pulled.number(7), pulled.number(9)];
    conversation.pull = undefined;
    switch (codeOf(pulled.number(2))) {
      case Code.Ok:
        break;
      case Code.NotFound:
      case Code.Unauthorized:
        this.forget(group, heard, now);
        return this.sendPulls(now);
      default:
        conversation.wantedMs = now + limits.PULL_RETRY_MS;
        return;
    }
    conversation.head = Math.max(conversation.head, head);
    const before = conversation.received;
    if (conversation.received === undefined) {
      begin(conversation, after);
    }
    for (const entry of messages) {
      if (entry.syncId > (conversation.received ?? 0)) {
        this.skipTo(group, conversation, entry.syncId - 1);
        this.handOn(conversation, entry, now);
      }
    }
    // Not when its last entry said that the account is no member any more.
    if (this.list.has(group)) {
      this.skipTo(group, conversation, through);
      const pauseMs = conversation.received === before ? limits.PULL_RETRY_MS : 0;
      conversation.wantedMs = isBehind(conversation) ? now + pauseMs : undefined;
    }
    this.sendPulls(now);
  }

  /** What lies between is past retention, or from before the account joined, and will not come. */
  private skipTo(group: string, conversation: Conversation, syncId: number): void {
    const { received, processed } = conversation;
    if (received === undefined || received >= syncId) {
      return;
    }
    this.context.emit({ type: "group-expired", channel: this.channel, group, first: received + 1, last: syncId });
    conversation.received = syncId;
    // Only when nothing the app still works on would be acknowledged with it.
    if (processed === received) {
      conversation.processed = syncId;
    }
  }

  /** Asks for ranges, of the most important conversations first. */
  private sendPulls(now: number): void {
    this.admit(now);
    for (let places = limits.PULLS_IN_FLIGHT_MAX - this.pulls(); places > 0; places--) {
      let best: [string, Conversation] | undefined;
      for (const [group, conversation] of this.list) {
        const { pull, wantedMs, priority } = conversation;
        const isDue = pull === undefined && wantedMs !== undefined && wantedMs <= now;
        if (isDue && (best === undefined || priority > best[1].priority)) {
          best = [group, conversation];
        }
      }
      if (best === undefined) {
        return;
      }
      const [group, conversation] = best;
      const id = this.nextId++;
      conversation.wantedMs = undefined;
      conversation.pull = { id, dueMs: now + limits.ANSWER_MS, heard: conversation.head };
      const pull = new Writer().number(1, id).text(2, group);
      if (conversation.received !== undefined) {
        pull.present(3, conversation.received);
      }
      this.send(Kind.Pull, pull.finish());
    }
  }

  private pulls(): number {
    return [...this.list.values()].reduce((sum, { pull }) => sum + Number(pull !== undefined), 0);
  }

  /** The app has processed everything up to here. */
  acknowledge(group: string, syncId: number, now: number): void {
    const conversation = this.list.get(group);
    // What was not received cannot be processed.
    if (conversation?.received === undefined) {
      return;
    }
    const processed = Math.min(syncId, conversation.received);
    if (conversation.processed === undefined || conversation.processed < processed) {
      conversation.processed = processed;
      this.ackDueMs ??= now + limits.ACK_DELAY_MS;
    }
  }

  sendAcks(): void {
    this.ackDueMs = undefined;
    const positions: Uint8Array[] = [];
    const put = (group: string, syncId: number) =>
      void positions.push(new Writer().text(1, group).number(2, syncId).finish());
    this.left.forEach((syncId, group) => put(group, syncId));
    this.left.clear();
    for (const [group, conversation] of this.list) {
      const { processed, acked } = conversation;
      if (processed !== undefined && processed > acked) {
        conversation.acked = processed;
        put(group, processed);
      }
    }
    while (positions.length > 0) {
      const ack = new Writer();
      positions.splice(0, limits.GROUP_POSITIONS_MAX).forEach((position) => ack.message(1, position));
      this.send(Kind.GroupAck, ack.finish());
    }
  }

  /** Asks something about groups, again and again until it is answered. */
  ask(id: number, group: string, act: GroupAct, bodyBytesMax: number): void {
    const body = encodeRequest(id, group, act);
    if (body.length > bodyBytesMax) {
      throw new SubmitError("too-large", `the request has ${body.length} bytes; the gateway takes ${bodyBytesMax}`);
    }
    if (this.asks.length >= limits.GROUP_REQUESTS_PENDING_MAX) {
      throw new SubmitError("queue-full", "too many requests about groups wait for their answers: wait too");
    }
    const isLook = act.act === "members" || act.act === "list";
    this.asks.push({ id, body, isLook, dueMs: undefined, attempt: 0 });
  }

  /** The new gateway takes bodies up to this size: what is larger will not be answered there. */
  refuseLarger(bodyBytesMax: number): void {
    const refused = this.asks.filter(({ body }) => body.length > bodyBytesMax);
    this.asks = this.asks.filter(({ body }) => body.length <= bodyBytesMax);
    refused.forEach(({ id }) => this.answer(id, Code.TooLarge, `the gateway takes ${bodyBytesMax} bytes`));
  }

  /**
   * What came of a request. A look that is refused for now is said again; of a change the app is told, which may have better
   * to do than to wait until there is storage for it.
   */
  handleAnswer(answer: Fields, now: number): void {
    const decoded = decodeAnswer(answer);
    const at = this.asks.findIndex(({ id }) => id === decoded.id);
    const ask = this.asks[at];
    if (ask === undefined) {
      return;
    }
    if (ask.isLook && isRetryable(decoded.code)) {
      ask.attempt += 1;
      ask.dueMs = now + 1 + fullJitter(limits.RETRY_BASE_MS, limits.RETRY_CAP_MS, ask.attempt, this.context.random);
      return;
    }
    this.asks.splice(at, 1);
    this.context.emit({ type: "group-answer", channel: this.channel, ...decoded });
  }

  private answer(id: number, code: Code, detail: string): void {
    const nothing = { syncId: 0, members: [], groups: [], more: false, title: "", isOpen: false };
    this.context.emit({ type: "group-answer", channel: this.channel, id, code, detail, ...nothing });
  }

  /** Says what is due. */
  handleTimeout(now: number): void {
    // Before the acknowledgements: it says them where a place is left for another group.
    this.admit(now);
    if (this.ackDueMs !== undefined && now >= this.ackDueMs) {
      this.sendAcks();
    }
    for (const conversation of this.list.values()) {
      if (conversation.pull !== undefined && now >= conversation.pull.dueMs) {
        conversation.pull = undefined;
        conversation.wantedMs = now;
      }
    }
    this.sendPulls(now);
    for (const ask of this.asks) {
      if (now < (ask.dueMs ?? now)) {
        continue;
      }
      if (this.context.hasRoom()) {
        ask.dueMs = now + limits.ANSWER_MS;
        this.send(Kind.Group, ask.body);
      } else if (ask.dueMs !== undefined) {
        // What could not be written yet is not written again on top.
        ask.dueMs = now + limits.ANSWER_MS;
      }
    }
  }

  /** A group's, a new one where a place is free or can be made; otherwise it waits for one. */
  private place(group: string): Conversation | undefined {
    if (!this.list.has(group)) {
      if (!this.makeRoom()) {
        this.wait(group);
        return undefined;
      }
      this.waiting.delete(group);
    }
    return this.conversation(group);
  }

  /** A group's, a new one where there is none. Whoever calls it knows of a place. */
  private conversation(group: string): Conversation {
    const nothing = { received: undefined, processed: undefined, wantedMs: undefined, pull: undefined };
    const conversation = this.list.get(group) ?? { ...nothing, acked: 0, head: 0, priority: 0, heard: 0 };
    conversation.heard = ++this.heard;
    this.list.set(group, conversation);
    return conversation;
  }

  /**
   * Makes a place where there is none: of groups that were left while the device was away nobody tells, so that they gather
   * here. The settled one goes of which nothing was heard for the longest time; should there be more of it, the router
   * knows where this device left off. False: none is settled, or what would have to be said cannot be written.
   */
  private makeRoom(): boolean {
    if (this.list.size < limits.CONVERSATIONS_MAX) {
      return true;
    }
    // What cannot be written must not pile up, whatever the server sends.
    if (!this.context.hasRoom()) {
      return false;
    }
    let oldest: [string, Conversation] | undefined;
    for (const one of this.list) {
      if (isSettled(one[1]) && (oldest === undefined || one[1].heard < oldest[1].heard)) {
        oldest = one;
      }
    }
    if (oldest === undefined) {
      return false;
    }
    const [group, { processed }] = oldest;
    this.list.delete(group);
    // Or the router might go on from an earlier place than the app has reached.
    if (processed !== undefined) {
      this.left.set(group, processed);
    }
    this.sendAcks();
    return true;
  }

  /**
   * What is told of a group is dropped, unacknowledged, while there is no place for it; then it is pulled. So many wait; the
   * others are told of again at the next login.
   */
  private wait(group: string): void {
    if (this.waiting.size < limits.CONVERSATIONS_MAX) {
      this.waiting.add(group);
    }
  }

  /** Gives the places that have become free to groups that wait for one. */
  private admit(now: number): void {
    for (const group of this.waiting) {
      if (!this.makeRoom()) {
        return;
      }
      this.waiting.delete(group);
      this.conversation(group).wantedMs = now;
    }
  }

  private send(kind: number, body: Uint8Array): void {
    this.context.send(encodeFrame(kind, COMMAND, this.channel, body));
  }
}

/** Goes on behind an entry of which the router knows. */
function begin(conversation: Conversation, after: number): void {
  conversation.received = conversation.processed = conversation.acked = after;
}

/** Whether nothing is to come, as far as is known, and the app has processed all that came. */
function isSettled(conversation: Conversation): boolean {
  const { received, processed, wantedMs, pull } = conversation;
  return wantedMs === undefined && pull === undefined && !isBehind(conversation) && processed === received;
}

function isBehind({ received, head }: Conversation): boolean {
  return received === undefined || received < head;
}

/** Numbers of an entry's fields: from, client id, sent at, payload, whether it is a change, marks. */
type EntryFields = readonly [number, number, number, number, number, number];
const DELIVERY_FIELDS: EntryFields = [2, 3, 4, 6, 9, 10];

function entryOf(
  message: Fields,
  group: string,
  syncId: number,
  [from, clientId, sentAtMs, payload, isEvent, marks]: EntryFields,
): Entry {
  return {
    group,
    syncId: message.number(syncId),
    from: message.text(from),
    clientId: message.bytes(clientId),
    sentAtMs: message.number(sentAtMs),
    payload: message.bytes(payload),
    marks: marksOf(message, marks),
    isEvent: message.bigint(isEvent) !== 0n,
  };
}
