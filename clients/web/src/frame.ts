// The frame: eight bytes of header, then the body. See docs/protocol.md.

import { CONTROL_BODY_BYTES_MAX, OPTIONAL_KINDS, SERVER_BODY_BYTES_MAX } from "./limits.js";
import { WireError } from "./protobuf.js";

/** What a frame is. */
export const Kind = {
  Connect: 0x01,
  Connected: 0x02,
  Open: 0x03,
  Opened: 0x04,
  Close: 0x05,
  Data: 0x06,
  Ack: 0x07,
  Sync: 0x08,
  Ping: 0x09,
  Pong: 0x0a,
  GoAway: 0x0b,
  Error: 0x0c,
  Group: 0x10,
  GroupDelivery: 0x11,
  GroupAck: 0x12,
  GroupHeads: 0x13,
  Pull: 0x14,
  Pulled: 0x15,
  Enter: 0x18,
  Leave: 0x19,
  Room: 0x1a,
  RoomAck: 0x1b,
  RoomLike: 0x1c,
  RoomPull: 0x1d,
  RoomPulled: 0x1e,
  RoomRefused: 0x1f,
  Read: 0x28,
  ReadMarks: 0x29,
  DeviceAck: 0x2a,
} as const;

/** Class of a frame that steers. */
export const COMMAND = 0;

/**
 * How much a message matters. Reliable: stored before it is accepted. Normal and transient: for whoever is there right now,
 * stored nowhere; a full queue drops transient ones first.
 */
export type MessageClass = "reliable" | "normal" | "transient";

/** Flags of the frames that carry messages. */
const CLASSES: Readonly<Record<MessageClass, number>> = { reliable: 1, normal: 2, transient: 3 };
const CLASS_MASK = 0b111;

const HEADER_BYTES = 8;
const PING_BODY_BYTES_MAX = 16;

/** A whole frame. */
export interface Frame {
  readonly kind: number;
  readonly flags: number;
  readonly channel: number;
  readonly body: Uint8Array;
}

/** The flags of a class; `undefined`: there is no such class. */
export function flagsOf(name: MessageClass): number | undefined {
  return Object.hasOwn(CLASSES, name) ? CLASSES[name] : undefined;
}

/** The class that flags tell. A message with those of frames that steer counts as reliable. */
export function classOf(flags: number): MessageClass {
  const number = flags & CLASS_MASK;
  return number <= CLASSES.reliable ? "reliable" : number === CLASSES.normal ? "normal" : "transient";
}

/** A frame as bytes. */
export function encodeFrame(kind: number, flags: number, channel: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, kind);
  view.setUint8(1, flags);
  view.setUint16(2, channel);
  view.setUint32(4, body.length);
  bytes.set(body, HEADER_BYTES);
  return bytes;
}

/** ACK, SYNC or READ_MARKS: a sync id, or a version, in eight bytes. */
export function encodeSyncId(kind: number, channel: number, syncId: number): Uint8Array {
  const body = new Uint8Array(8);
  new DataView(body.buffer).setBigUint64(0, BigInt(syncId));
  return encodeFrame(kind, COMMAND, channel, body);
}

/** Cuts received bytes into frames, wherever they were cut on their way. Holds one frame's bytes at most. */
export class FrameReader {
  private buffer = new Uint8Array(0);

  /** More bytes; `take` is called with each frame that is whole now and says whether it wants the next one. */
  push(bytes: Uint8Array, take: (frame: Frame) => boolean): void {
    let input = bytes;
    if (this.buffer.length > 0) {
      input = new Uint8Array(this.buffer.length + bytes.length);
      input.set(this.buffer);
      input.set(bytes, this.buffer.length);
    }
    let at = 0;
    while (input.length - at >= HEADER_BYTES) {
      const view = new DataView(input.buffer, input.byteOffset + at, HEADER_BYTES);
      const kind = view.getUint8(0);
      const length = view.getUint32(4);
      if (length > bodyBytesMax(kind)) {
        throw new WireError(`a frame of kind ${kind} announces ${length} bytes`);
      }
      const end = at + HEADER_BYTES + length;
      if (end > input.length) {
        break;
      }
      const body = input.subarray(at + HEADER_BYTES, end);
      const frame = { kind, flags: view.getUint8(1), channel: view.getUint16(2), body };
      at = end;
      if (!take(frame)) {
        break;
      }
    }
    this.buffer = input.slice(at);
  }
}

function bodyBytesMax(kind: number): number {
  switch (kind) {
    case Kind.Data:
    case Kind.Group:
    case Kind.GroupDelivery:
    case Kind.GroupHeads:
    case Kind.Pulled:
    case Kind.Room:
    case Kind.RoomPulled:
      return SERVER_BODY_BYTES_MAX;
    case Kind.Ping:
    case Kind.Pong:
      return PING_BODY_BYTES_MAX;
    default:
      // A page of read marks is longer than what steers, and so may be what is passed over.
      return isOptional(kind) ? SERVER_BODY_BYTES_MAX : CONTROL_BODY_BYTES_MAX;
  }
}

/** Whether a client that does not know this kind passes over it. */
export function isOptional(kind: number): boolean {
  return kind >= OPTIONAL_KINDS[0] && kind <= OPTIONAL_KINDS[1];
}
