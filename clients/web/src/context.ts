// What a session lends its channels.

import type { Event } from "./events.js";
import type { Random } from "./jitter.js";

/** Where bytes, events and randomness are. */
export interface Context {
  send(bytes: Uint8Array): void;
  unsentBytes(): number;
  emit(event: Event): void;
  readonly random: Random;
}
