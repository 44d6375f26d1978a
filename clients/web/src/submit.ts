// What a message says, to whom, and how it is to be treated.

import { SubmitError } from "./events.js";
import { type MessageClass, flagsOf } from "./frame.js";
import * as limits from "./limits.js";
import { nameFault } from "./names.js";
import { Writer } from "./protobuf.js";
import { type TrafficMarks, encodeMarks } from "./traffic.js";

/** Whom a message is for: an account, or a group. */
export type Target = string | { readonly group: string };

/** Likewise, or everybody in a room, as a message of a type. */
export type Addressee = Target | { readonly room: string; readonly type: number };

/** What the business loses without a message: 0 its core, 1 something important, 2 the rest. */
export type BusinessLevel = 0 | 1 | 2;

/** How a message is to be treated. */
export interface Sending {
  /**
   * Absent: reliable, kept and sent again until it is answered. Normal and transient messages are sent once, to accounts, and
   * only while the channel is logged in.
   */
  readonly class?: MessageClass;
  /** Absent: the app's own. An operator may have messages of levels 2 and 1 refused. */
  readonly level?: BusinessLevel;
  readonly marks?: TrafficMarks;
}

/** A message as the app hands it over. */
export interface Message {
  readonly clientId: Uint8Array;
  readonly to: Addressee;
  readonly payload: Uint8Array;
  readonly sending: Sending;
}

/** The flags of a message's frame; {@link SubmitError} when its class is none, or not for whom it is for. */
export function submitFlags({ to, sending: { class: name = "reliable" } }: Message): number {
  const flags = flagsOf(name);
  if (flags === undefined) {
    throw new SubmitError("class", `${name} is no class of messages`);
  }
  if (name !== "reliable" && typeof to !== "string") {
    const text = "group" in to ? "messages to groups are reliable" : "what a room's message is worth is said by its type";
    throw new SubmitError("class", text);
  }
  return flags;
}

/** Says what is wrong with an account's or a group's name; `undefined`: nothing. */
export function targetFault(to: Target): string | undefined {
  return typeof to === "string"
    ? nameFault("account", to, limits.ACCOUNT_BYTES_MAX)
    : nameFault("group", to.group, limits.GROUP_BYTES_MAX);
}

/** A submit's body; {@link SubmitError} when it is for what cannot be. */
export function encodeSubmit({ clientId, to, payload, sending: { level, marks = {} } }: Message): Uint8Array {
  const length = clientId.length;
  if (length < 1 || length > limits.CLIENT_ID_BYTES_MAX) {
    const text = `the client id has ${length} bytes; 1 to ${limits.CLIENT_ID_BYTES_MAX} are allowed`;
    throw new SubmitError("client-id", text);
  }
  const body = new Writer().bytes(1, clientId);
  let fault: string | undefined;
  if (typeof to === "string") {
    fault = targetFault(to);
    body.text(2, to);
  } else if ("group" in to) {
    fault = targetFault(to);
    body.text(4, to.group);
  } else {
    fault = nameFault("room", to.room, limits.ROOM_BYTES_MAX);
    if (!Number.isInteger(to.type) || to.type < 0 || to.type > limits.ROOM_TYPE_MAX) {
      throw new SubmitError("room-type", `${to.type} is no type of messages`);
    }
    body.text(5, to.room).number(6, to.type);
  }
  if (fault !== undefined) {
    throw new SubmitError("name", fault);
  }
  if (level !== undefined) {
    if (!Number.isInteger(level) || level < 0 || level > limits.LEVEL_MAX) {
      throw new SubmitError("level", `${level} is no business level: take 0 to ${limits.LEVEL_MAX}`);
    }
    body.present(8, level);
  }
  return body.bytes(9, encodeMarks(marks)).bytes(3, payload).finish();
}
