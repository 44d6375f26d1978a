// The part of protobuf that the client's messages need: varints, fixed64 and length-delimited fields. Unknown
// fields are passed over, as protobuf asks.

/** Bytes that are no message of the protocol. */
export class WireError extends Error {
  override readonly name = "WireError";
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

/** UTF-8 of a text. */
export function utf8(text: string): Uint8Array {
  return encoder.encode(text);
}

/** Puts pieces of bytes one behind the other. */
export function concat(pieces: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

/** Whether two runs of bytes are the same. */
export function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

function varint(value: number): Uint8Array {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(`${value} is no number of the protocol`);
  }
  const bytes: number[] = [];
  // No bit operations: they end at 32 bits.
  for (; value >= 0x80; value = Math.floor(value / 0x80)) {
    bytes.push((value % 0x80) | 0x80);
  }
  bytes.push(value);
  return Uint8Array.from(bytes);
}

/** Puts a message together, field by field; a field that has its default value is left out. */
export class Writer {
  private readonly pieces: Uint8Array[] = [];

  /** A number. */
  number(field: number, value: number): this {
    return value === 0 ? this : this.present(field, value);
  }

  /** A number that is said even if it is zero: of an `optional` field. */
  present(field: number, value: number): this {
    this.pieces.push(varint(field * 8), varint(value));
    return this;
  }

  /** Bytes. */
  bytes(field: number, value: Uint8Array): this {
    return value.length === 0 ? this : this.message(field, value);
  }

  /** A text. */
  text(field: number, value: string): this {
    return this.bytes(field, utf8(value));
  }

  /** A message within this one, said even if it is empty. */
  message(field: number, value: Uint8Array): this {
    this.pieces.push(varint(field * 8 + 2), varint(value.length), value);
    return this;
  }

  /** The message. */
  finish(): Uint8Array {
    return concat(this.pieces);
  }
}

/** The fields of a message. Of one that is not repeated the last counts, as protobuf wants it. */
export class Fields {
  private readonly values = new Map<number, (bigint | Uint8Array)[]>();

  /** Takes a message apart; {@link WireError} when it is none. */
  constructor(private readonly message: Uint8Array) {
    const end = message.length;
    for (let at = 0; at < end; ) {
      let key: bigint;
      [key, at] = this.varint(at);
      const field = Number(key >> 3n);
      switch (key & 7n) {
        case 0n: {
          let value: bigint;
          [value, at] = this.varint(at);
          this.add(field, value);
          break;
        }
        case 1n:
        case 5n: {
          const length = (key & 7n) === 1n ? 8 : 4;
          this.add(field, littleEndian(this.slice(at, length)));
          at += length;
          break;
        }
        case 2n: {
          let length: bigint;
          [length, at] = this.varint(at);
          this.add(field, this.slice(at, Number(length)));
          at += Number(length);
          break;
        }
        default:
          throw new WireError(`field ${field} has a type that no message uses`);
      }
    }
  }

  /** A number up to 2^53; {@link WireError} above. */
  number(field: number): number {
    const value = Number(this.bigint(field));
    if (!Number.isSafeInteger(value)) {
      throw new WireError(`field ${field} is ${value}`);
    }
    return value;
  }

  /** A number; above 2^53 what comes close: of fields that other clients fill, so that theirs end no connection here. */
  clamped(field: number): number {
    return Math.min(Number(this.bigint(field)), Number.MAX_SAFE_INTEGER);
  }

  /** A number of an `optional` field; `undefined`: it is not there. */
  optional(field: number): number | undefined {
    return this.values.has(field) ? this.number(field) : undefined;
  }

  /** Any number of 64 bits. */
  bigint(field: number): bigint {
    const value = this.values.get(field)?.at(-1) ?? 0n;
    if (typeof value !== "bigint") {
      throw new WireError(`field ${field} is no number`);
    }
    return value;
  }

  /** Bytes, copied: what was received may be large and is not held for a small part of it. */
  bytes(field: number): Uint8Array {
    return this.runs(field).at(-1)?.slice() ?? new Uint8Array(0);
  }

  /** A text. */
  text(field: number): string {
    const run = this.runs(field).at(-1);
    return run === undefined ? "" : decode(field, run);
  }

  /** Texts of a repeated field. */
  texts(field: number): string[] {
    return this.runs(field).map((run) => decode(field, run));
  }

  /** Messages within this one, of a repeated field. */
  messages(field: number): Fields[] {
    return this.runs(field).map((run) => new Fields(run));
  }

  private runs(field: number): Uint8Array[] {
    const values = this.values.get(field) ?? [];
    return values.map((value) => {
      if (typeof value === "bigint") {
        throw new WireError(`field ${field} has no bytes`);
      }
      return value;
    });
  }

  private add(field: number, value: bigint | Uint8Array): void {
    const values = this.values.get(field);
    if (values === undefined) {
      this.values.set(field, [value]);
    } else {
      values.push(value);
    }
  }

  private slice(at: number, length: number): Uint8Array {
    if (length > this.message.length - at) {
      throw new WireError("a message ends within a field");
    }
    return this.message.subarray(at, at + length);
  }

  private varint(at: number): [bigint, number] {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.message[at++];
      if (byte === undefined) {
        throw new WireError("a message ends within a number");
      }
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) {
        return [BigInt.asUintN(64, value), at];
      }
    }
    throw new WireError("a number has more than ten bytes");
  }
}

function decode(field: number, run: Uint8Array): string {
  try {
    return decoder.decode(run);
  } catch {
    throw new WireError(`field ${field} is no UTF-8`);
  }
}

function littleEndian(bytes: Uint8Array): bigint {
  return bytes.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
}
