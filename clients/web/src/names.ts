// What the protocol calls a name.

import { utf8 } from "./protobuf.js";

/** Says what is wrong with a name; `undefined`: nothing. */
export function nameFault(what: string, name: string, bytesMax: number): string | undefined {
  const length = utf8(name).length;
  if (length === 0) {
    return `${what} is empty`;
  }
  if (length > bytesMax) {
    return `${what} has ${length} bytes; at most ${bytesMax} are allowed`;
  }
  return /\p{Cc}/u.test(name) ? `${what} contains a control character` : undefined;
}
