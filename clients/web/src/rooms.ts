// The rooms of one channel: which the app wants to be in, and which reliable messages of each are here.

import type { Context } from "./context.js";
import { Code, RoomError, type RoomMessage, codeOf } from "./events.js";
import { COMMAND, Kind, encodeFrame } from "./frame.js";
import { between } from "./jitter.js";
import * as limits from "./limits.js";
import { nameFault } from "./names.js";
import { type Fields, Writer } from "./protobuf.js";
import { marksOf } from "./traffic.js";

interface Room {
  readonly name: string;
  /** Highest id of a reliable message without a gap; `undefined` until the first batch says what there was before. */
  lastId: number | undefined;
  newestId: number;
  likes: number;
  ackDueMs: number | undefined;
  pullDueMs: number | undefined;
  likesDueMs: number | undefined;
}

/** Rooms of one channel. Only an open channel calls what says something. */
export class Rooms {
  private readonly rooms = new Map<string, Room>();

  constructor(
    private readonly channel: number,
    private readonly context: Context,
  ) {}

  /** Wants to be in a room. True when that is to be said. */
  enter(name: string, lastId: number | undefined): boolean {
    const fault = nameFault("room", name, limits.ROOM_BYTES_MAX);
    if (fault !== undefined) {
      throw new RoomError("name", fault);
    }
    if (lastId !== undefined && (!Number.isSafeInteger(lastId) || lastId < 0)) {
      throw new RoomError("last-id", `${lastId} is no id`);
    }
    if (this.rooms.has(name)) {
      return false;
    }
    if (this.rooms.size >= limits.ROOMS_MAX) {
      throw new RoomError("too-many", `a channel may be in ${limits.ROOMS_MAX} rooms: leave one first`);
    }
    const due = { ackDueMs: undefined, pullDueMs: undefined, likesDueMs: undefined };
    this.rooms.set(name, { name, lastId, newestId: 0, likes: 0, ...due });
    return true;
  }

  /** Wants to be in it no more. True when that is to be said. */
  leave(name: string): boolean {
    return this.rooms.delete(name);
  }

  lastId(name: string): number | undefined {
    return this.rooms.get(name)?.lastId;
  }

  sendEnter(name: string): void {
    const enter = new Writer().text(1, name);
    const lastId = this.lastId(name);
    if (lastId !== undefined) {
      enter.present(2, lastId);
    }
    this.send(Kind.Enter, enter);
  }

  sendLeave(name: string): void {
    this.send(Kind.Leave, new Writer().text(1, name));
  }

  /** Says ENTER for every room: a new login is in none. */
  sendAll(): void {
    for (const name of this.rooms.keys()) {
      this.sendEnter(name);
    }
  }

  like(name: string, count: number, now: number): void {
    const room = this.rooms.get(name);
    if (room === undefined) {
      return;
    }
    // What one frame can say; more in half a second is nobody's finger.
    room.likes = Math.min(room.likes + count, limits.ROOM_LIKES_MAX);
    room.likesDueMs ??= now + limits.ROOM_LIKES_MS;
  }

  handleDisconnected(): void {
    for (const room of this.rooms.values()) {
      room.ackDueMs = room.pullDueMs = undefined;
    }
  }

  handleBatch(batch: Fields, now: number): void {
    const room = this.rooms.get(batch.text(1));
    if (room === undefined) {
      return;
    }
    const messages = batch.messages(2).map(roomMessage);
    const newestId = batch.number(4);
    const numbers = { dropped: batch.number(3), online: batch.number(5), likes: batch.number(6) };
    room.newestId = Math.max(room.newestId, newestId);
    const kept = sift(room, messages);
    // What had been said before is none of this session's business.
    room.lastId ??= newestId;
    if (messages.some(({ id }) => id !== undefined)) {
      const spreadMs = Math.min(numbers.online / limits.ROOM_ACKS_PER_MS, limits.ROOM_ACK_SPREAD_MS_MAX);
      room.ackDueMs ??= this.soon(now, Math.max(spreadMs, limits.ROOM_SPREAD_MS));
    }
    if (isBehind(room)) {
      room.pullDueMs ??= this.soon(now);
    }
    this.context.emit({ type: "room", channel: this.channel, room: room.name, messages: kept, ...numbers });
  }

  handlePulled(pulled: Fields, now: number): void {
    const room = this.rooms.get(pulled.text(1));
    // One that has asked for nothing: the answer is to who was here before.
    if (room?.lastId === undefined || room.pullDueMs === undefined) {
      return;
    }
    if (codeOf(pulled.number(2)) !== Code.Ok) {
      room.pullDueMs = this.soon(now + limits.ROOM_PULL_REPEAT_MS);
      return;
    }
    const messages = pulled.messages(3).map(roomMessage);
    const [throughId, floorId, newestId] = [pulled.number(4), pulled.number(5), pulled.number(6)];
    const before = room.lastId;
    // What is past retention will not come.
    room.lastId = Math.max(room.lastId, floorId - 1);
    room.newestId = Math.max(room.newestId, newestId);
    const kept = sift(room, messages);
    room.lastId = Math.max(room.lastId, Math.min(throughId, room.newestId));
    room.ackDueMs ??= this.soon(now);
    // An answer that brings nothing is no reason to ask at once.
    const pauseMs = room.lastId > before ? 0 : limits.ROOM_PULL_REPEAT_MS;
    room.pullDueMs = isBehind(room) ? now + pauseMs : undefined;
    if (kept.length > 0) {
      const numbers = { dropped: 0, online: undefined, likes: undefined };
      this.context.emit({ type: "room", channel: this.channel, room: room.name, messages: kept, ...numbers });
    }
  }

  handleRefused(refused: Fields): void {
    const room = refused.text(1);
    const [code, reason] = [codeOf(refused.number(2)), refused.text(3)];
    if (this.leave(room)) {
      this.context.emit({ type: "room-refused", channel: this.channel, room, code, reason });
    }
  }

  /** When {@link handleTimeout} is due. */
  nextMs(): number {
    let next = Infinity;
    for (const { ackDueMs, pullDueMs, likesDueMs } of this.rooms.values()) {
      next = Math.min(next, ackDueMs ?? Infinity, pullDueMs ?? Infinity, likesDueMs ?? Infinity);
    }
    return next;
  }

  handleTimeout(now: number): void {
    const isDue = (due: number | undefined): boolean => due !== undefined && now >= due;
    for (const room of this.rooms.values()) {
      const lastId = room.lastId ?? 0;
      if (isDue(room.ackDueMs)) {
        room.ackDueMs = undefined;
        this.send(Kind.RoomAck, new Writer().text(1, room.name).number(2, lastId));
      }
      if (isDue(room.pullDueMs)) {
        room.pullDueMs = undefined;
        if (isBehind(room)) {
          room.pullDueMs = now + limits.ROOM_PULL_REPEAT_MS;
          this.send(Kind.RoomPull, new Writer().text(1, room.name).number(2, lastId));
        }
      }
      if (isDue(room.likesDueMs)) {
        this.send(Kind.RoomLike, new Writer().text(1, room.name).number(2, room.likes));
        room.likes = 0;
        room.likesDueMs = undefined;
      }
    }
  }

  private soon(now: number, spreadMs: number = limits.ROOM_SPREAD_MS): number {
    return now + between(0, spreadMs, this.context.random);
  }

  private send(kind: number, body: Writer): void {
    this.context.send(encodeFrame(kind, COMMAND, this.channel, body.finish()));
  }
}

/** Keeps of these messages what is next, and what has no place. */
function sift(room: Room, messages: readonly RoomMessage[]): RoomMessage[] {
  return messages.filter(({ id }) => {
    if (id === undefined) {
      return true;
    }
    // Whatever came before the first was said before this session was here.
    room.lastId ??= id - 1;
    const isNext = room.lastId + 1 === id;
    if (isNext) {
      room.lastId = id;
    }
    return isNext;
  });
}

function isBehind({ lastId, newestId }: Room): boolean {
  return lastId !== undefined && lastId < newestId;
}

function roomMessage(message: Fields): RoomMessage {
  return {
    id: message.number(6) || undefined,
    from: message.text(1),
    type: message.number(2),
    clientId: message.bytes(3),
    sentAtMs: message.number(4),
    payload: message.bytes(5),
    marks: marksOf(message, 7),
  };
}
