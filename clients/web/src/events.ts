// What a session tells its app.

import type { MessageClass } from "./frame.js";
import type { GroupAnswer, GroupEvent } from "./groups.js";
import type { Target } from "./submit.js";
import type { TrafficMarks } from "./traffic.js";

/** Why something was refused, closed or failed. A code that is not known is taken for `Internal`. */
export const Code = {
  Ok: 0,
  ProtocolError: 1,
  TooLarge: 2,
  Invalid: 3,
  Unauthorized: 4,
  NotFound: 5,
  NotHere: 6,
  Unavailable: 7,
  Overloaded: 8,
  SlowReader: 9,
  HeartbeatLost: 10,
  Kicked: 11,
  Draining: 12,
  Storage: 13,
  Internal: 14,
  Limit: 15,
  Version: 16,
  Normal: 17,
} as const;

/** One of {@link Code}. */
export type Code = (typeof Code)[keyof typeof Code];

/** A code as received. */
export function codeOf(code: number): Code {
  return Object.values(Code).find((known) => known === code) ?? Code.Internal;
}

/** Whether the same thing may work later. */
export function isRetryable(code: Code): boolean {
  return (
    code === Code.Unavailable ||
    code === Code.Overloaded ||
    code === Code.Storage ||
    code === Code.Internal ||
    code === Code.Draining
  );
}

/** Why a connection ended. */
export type Disconnect =
  /** The peer hung up or the network broke. */
  | { readonly why: "hung-up" }
  /** Nothing was heard in time. */
  | { readonly why: "silent" }
  /** The server sent what no server sends. */
  | { readonly why: "garbled" }
  /** The app does not take its events. */
  | { readonly why: "congested" }
  /** GOAWAY; `alternate` is another address to prefer, empty: the same one. */
  | { readonly why: "sent-away"; readonly code: Code; readonly alternate: string }
  /** ERROR. */
  | { readonly why: "refused"; readonly code: Code; readonly detail: string };

/** What was said in a room. */
export interface RoomMessage {
  /** Its place among the room's reliable messages, which come once and in order; absent: it is not reliable. */
  readonly id: number | undefined;
  readonly from: string;
  /** What kind of message it is: the operator says what each is worth. */
  readonly type: number;
  readonly clientId: Uint8Array;
  readonly sentAtMs: number;
  readonly payload: Uint8Array;
  /** Where it comes from, as the sender said. */
  readonly marks: TrafficMarks;
}

/** Something the app should know. */
export type Event =
  /** The connection is logged in. */
  | { readonly type: "connected"; readonly gateway: string; readonly heartbeatMs: number }
  /** A connection could not be made: the gateway is away, or does not want this page. The next try comes by itself. */
  | { readonly type: "not-connected"; readonly retryInMs: number }
  /** The connection is gone; the session comes back by itself. */
  | { readonly type: "disconnected"; readonly reason: Disconnect }
  /** A channel is logged in; `session` is the handle by which services reach it. */
  | { readonly type: "opened"; readonly channel: number; readonly session: bigint }
  /**
   * A channel was closed by the server; `reopens`: what is wrong may pass, and the session opens it again by itself, less
   * and less often.
   */
  | {
      readonly type: "closed";
      readonly channel: number;
      readonly code: Code;
      readonly reason: string;
      readonly reopens: boolean;
    }
  /** A message, once, in order; one without `syncId` is stored nowhere, and not acknowledged. */
  | {
      readonly type: "message";
      readonly channel: number;
      readonly syncId: number | undefined;
      readonly class: MessageClass;
      readonly from: string;
      readonly clientId: Uint8Array;
      readonly sentAtMs: number;
      readonly payload: Uint8Array;
      /** Where it comes from, as the sender said. */
      readonly marks: TrafficMarks;
    }
  /** Messages that are past retention and will not come. */
  | { readonly type: "expired"; readonly channel: number; readonly first: number; readonly last: number }
  /** An entry of a group's timeline, once, in order. */
  | {
      readonly type: "group-message";
      readonly channel: number;
      readonly group: string;
      readonly syncId: number;
      readonly from: string;
      readonly clientId: Uint8Array;
      readonly sentAtMs: number;
      readonly payload: Uint8Array;
      /** Where it comes from, as the sender said. */
      readonly marks: TrafficMarks;
      /** What the payload says where it is a change of the group. */
      readonly event: GroupEvent | undefined;
    }
  /** Entries of a group that are past retention, or from before the account joined, and will not come. */
  | {
      readonly type: "group-expired";
      readonly channel: number;
      readonly group: string;
      readonly first: number;
      readonly last: number;
    }
  /** The account is no member of a group any more, or there is no such group any more. */
  | { readonly type: "group-left"; readonly channel: number; readonly group: string }
  /** The answer to a request about groups. */
  | ({ readonly type: "group-answer"; readonly channel: number } & GroupAnswer)
  /**
   * What was said in a room since the last one, or was missing of it. Without messages only the numbers are news:
   * sessions in the room, about, likes since it was last empty (both absent: not said), and how many messages that may
   * be dropped were.
   */
  | {
      readonly type: "room";
      readonly channel: number;
      readonly room: string;
      readonly messages: readonly RoomMessage[];
      readonly dropped: number;
      readonly online: number | undefined;
      readonly likes: number | undefined;
    }
  /**
   * The account has read a conversation, with another account or of a group, up to here: on this device or another. May be
   * told twice; the highest holds.
   */
  | { readonly type: "read-mark"; readonly channel: number; readonly conversation: Target; readonly syncId: number }
  /** Another device of the account has acknowledged its messages up to here, where the app's operator has that told. */
  | { readonly type: "device-ack"; readonly channel: number; readonly device: string; readonly syncId: number }
  /** The session is not in a room, and will not be by itself. */
  | {
      readonly type: "room-refused";
      readonly channel: number;
      readonly room: string;
      readonly code: Code;
      readonly reason: string;
    }
  /**
   * The router has a submit, as `syncId` of its timeline (0: it has none); `duplicate`: it had it already, an earlier
   * answer was lost.
   */
  | {
      readonly type: "accepted";
      readonly channel: number;
      readonly clientId: Uint8Array;
      readonly syncId: number;
      readonly duplicate: boolean;
    }
  /**
   * A submit is not accepted for now, because its business level is switched off, say. It is kept and sent again; told once
   * for each reason.
   */
  | {
      readonly type: "delayed";
      readonly channel: number;
      readonly clientId: Uint8Array;
      readonly code: Code;
      readonly detail: string;
    }
  /**
   * A submit will not be accepted; it is forgotten. One that is not reliable may have arrived all the same where no answer
   * came, as `detail` says then.
   */
  | {
      readonly type: "refused";
      readonly channel: number;
      readonly clientId: Uint8Array;
      readonly code: Code;
      readonly detail: string;
    }
  /** The channel was closed for good before this submit's answer came: the router may have it or not. */
  | { readonly type: "abandoned"; readonly channel: number; readonly clientId: Uint8Array; readonly code: Code };

/** Why a submit, a request about groups or a read mark was not even tried. */
export class SubmitError extends Error {
  override readonly name = "SubmitError";

  constructor(
    /** Which rule it breaks. */
    readonly why:
      | "no-channel" | "offline" | "queue-full" | "too-large"
      | "name" | "client-id" | "room-type" | "class" | "level" | "mark" | "sync-id",
    message: string,
  ) {
    super(message);
  }
}

/** Why a room was not entered. */
export class RoomError extends Error {
  override readonly name = "RoomError";

  constructor(
    /** Which rule it breaks. */
    readonly why: "no-channel" | "name" | "last-id" | "too-many",
    message: string,
  ) {
    super(message);
  }
}
