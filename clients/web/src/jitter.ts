// When to try again: exponential growth with full jitter.

/** Where randomness comes from: a number in [0, 1), as `Math.random` gives. */
export type Random = () => number;

/** A pause between zero and `baseMs` doubled `attempt` times, never above `capMs`, milliseconds. */
export function fullJitter(baseMs: number, capMs: number, attempt: number, random: Random): number {
  return between(0, Math.min(baseMs * 2 ** attempt, capMs), random);
}

/** A whole number from `min` to `max`, both included. */
export function between(min: number, max: number, random: Random): number {
  return min + Math.floor(random() * (max - min + 1));
}
