// Where a message comes from, for those who count and route by it.

import { SubmitError } from "./events.js";
import * as limits from "./limits.js";
import { type Fields, Writer, utf8 } from "./protobuf.js";

/** Carried to the receiver as the sender gave it; each at most 32 bytes. Absent, as when empty: not said. */
export interface TrafficMarks {
  /** An entry point, a channel of sale. */
  readonly source?: string;
  readonly campaign?: string;
  /** Such as that of a gray release. */
  readonly release?: string;
}

/** Their fields. */
const MARKS: Readonly<Record<keyof TrafficMarks, number>> = { source: 1, campaign: 2, release: 3 };
const NAMES = Object.keys(MARKS) as (keyof TrafficMarks)[];

/** Marks as a submit carries them, empty when they say nothing; {@link SubmitError} when one is too long. */
export function encodeMarks(marks: TrafficMarks): Uint8Array {
  const body = new Writer();
  for (const name of NAMES) {
    const mark = marks[name] ?? "";
    const { length } = utf8(mark);
    if (length > limits.TRAFFIC_MARK_BYTES_MAX) {
      const text = `the ${name} has ${length} bytes; at most ${limits.TRAFFIC_MARK_BYTES_MAX} are allowed`;
      throw new SubmitError("mark", text);
    }
    body.text(MARKS[name], mark);
  }
  return body.finish();
}

/** Marks that a message came with, in this field. */
export function marksOf(message: Fields, field: number): TrafficMarks {
  const said = message.messages(field).at(-1);
  const marks = NAMES.map((name) => [name, said?.text(MARKS[name]) ?? ""] as const);
  return Object.fromEntries(marks.filter(([, mark]) => mark !== ""));
}
