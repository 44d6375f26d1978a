// What a message says, and to whom.

import { SubmitError } from "./events.js";
import * as limits from "./limits.js";
import { nameFault } from "./names.js";
import { Writer } from "./protobuf.js";

/** Whom a message is for: an account, or a group. */
export type Target = string | { readonly group: string };

/** Likewise, or everybody in a room, as a message of a type. */
export type Addressee = Target | { readonly room: string; readonly type: number };

/** A submit's body; {@link SubmitError} when it is for what cannot be. */
export function encodeSubmit(clientId: Uint8Array, to: Addressee, payload: Uint8Array): Uint8Array {
  const length = clientId.length;
  if (length < 1 || length > limits.CLIENT_ID_BYTES_MAX) {
    const text = `the client id has ${length} bytes; 1 to ${limits.CLIENT_ID_BYTES_MAX} are allowed`;
    throw new SubmitError("client-id", text);
  }
  const body = new Writer().bytes(1, clientId);
  let fault: string | undefined;
  if (typeof to === "string") {
    fault = nameFault("account", to, limits.ACCOUNT_BYTES_MAX);
    body.text(2, to);
  } else if ("group" in to) {
    fault = nameFault("group", to.group, limits.GROUP_BYTES_MAX);
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
  return body.bytes(3, payload).finish();
}
