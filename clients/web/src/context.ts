// What a session lends its channels.

import type { Event } from "./events.js";
import type { Random } from "./jitter.js";

/** Where bytes, events and randomness are. */
export interface Context {
  send(bytes: Uint8Array): void;
  /** Whether what waits to be written is less than it may be before a message or a request is put behind it. */
  hasRoom(): boolean;
  emit(event: Event): void;
  readonly random: Random;
}
