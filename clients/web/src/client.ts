// The WebSocket face: drives a session with a socket, a timer and the clock. Decides nothing itself.

import type { Login } from "./channel.js";
import type { Event } from "./events.js";
import type { GroupAct } from "./groups.js";
import { SLEEP_MS_MAX, SUBPROTOCOL } from "./limits.js";
import { utf8 } from "./protobuf.js";
import { Session, type SessionOptions } from "./session.js";
import type { Sending, Target } from "./submit.js";

/** What is used of a WebSocket: the one of browsers has it, and that of the npm package `ws`. */
export interface Socket {
  binaryType: string;
  readonly bufferedAmount: number;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(bytes: Uint8Array<ArrayBuffer>): void;
  close(): void;
}

/** How a client finds its gateway. */
export interface ClientOptions extends SessionOptions {
  /** Where the gateway's clients' port is, such as `wss://edge.example/`. */
  readonly url: string;
  /** Told everything, in order. */
  readonly onEvent: (event: Event) => void;
  /** The WebSocket class; absent: the global one. */
  readonly WebSocket?: new (url: string, protocols: string) => Socket;
}

/** How a message is to be treated, and its id where the app has one: used again for the same message it is stored once. */
export interface SubmitOptions extends Sending {
  readonly clientId?: Uint8Array;
}

/** Likewise in a room, where its type says what a message is worth: 0 unless said otherwise. */
export interface PublishOptions extends Omit<SubmitOptions, "class"> {
  readonly type?: number;
}

/** The network is back, or the page is, from the history or from having been frozen. */
const NETWORK_EVENTS = ["online", "pageshow", "resume"];

/** Has events in a page and in a worker. */
const scope: Partial<EventTarget> = globalThis;

/** A client that stays connected until it is closed. */
export class Client {
  private readonly session: Session;
  private readonly construct: new (url: string, protocols: string) => Socket;
  private socket: Socket | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private running = false;
  private closed = false;
  /** From GOAWAY: where the next try goes, once. */
  private alternate: string | undefined;

  /** Connects at once, and again whenever the connection breaks. Throws what the WebSocket class says of such an URL. */
  constructor(private readonly options: ClientOptions) {
    const global = (globalThis as { WebSocket?: unknown }).WebSocket as ClientOptions["WebSocket"];
    const construct = options.WebSocket ?? global;
    if (construct === undefined) {
      throw new TypeError("there is no global WebSocket: pass one, such as that of the npm package ws");
    }
    this.construct = construct;
    this.session = new Session(options);
    // On their way down: `resume` is the document's.
    NETWORK_EVENTS.forEach((type) => scope.addEventListener?.(type, this.handleNetworkEvent, true));
    try {
      this.wake();
    } catch (error) {
      // Nobody will have this client who could close it.
      this.close();
      throw error;
    }
  }

  /** Wants an account logged in on a channel, now and after every reconnect. */
  open(channel: number, login: Login): void {
    this.session.open(channel, login);
    this.wake();
  }

  /** Logs a channel out. */
  closeChannel(channel: number): void {
    this.session.close(channel);
    this.wake();
  }

  /**
   * Sends a message and returns its client id; an event with it says what became of the message. `options` may be just the
   * client id.
   */
  submit(
    channel: number,
    to: Target,
    payload: Uint8Array | string,
    options: SubmitOptions | Uint8Array = {},
  ): Uint8Array {
    const { clientId = randomId(), ...sending } = options instanceof Uint8Array ? { clientId: options } : options;
    const bytes = typeof payload === "string" ? utf8(payload) : payload;
    this.session.submit(channel, clientId, to, bytes, now(), sending);
    this.wake();
    return clientId;
  }

  /** Makes, changes or looks at a group and returns the request's id; `group-answer` with it says what came of it. */
  group(channel: number, group: string, act: GroupAct): number {
    const id = this.session.askGroup(channel, group, act, now());
    this.wake();
    return id;
  }

  /** Says that everything of a group up to `syncId` is processed; needed only with `autoAcknowledge: false`. */
  acknowledgeGroup(channel: number, group: string, syncId: number): void {
    this.session.acknowledgeGroup(channel, group, syncId, now());
    this.wake();
  }

  /** Says that the account has read a conversation, with an account or of a group, up to `syncId`; `read-mark` follows. */
  markRead(channel: number, conversation: Target, syncId: number): void {
    this.session.markRead(channel, conversation, syncId, now());
    this.wake();
  }

  /** What a channel holds of its groups: keep it for the next start's `groupPositions`. */
  groupPositions(channel: number): Record<string, number> {
    return this.session.groupPositions(channel);
  }

  /** Hears what is said in a room of the channel's app, from now on or behind `lastId`, and after every reconnect. */
  enter(channel: number, room: string, { lastId }: { readonly lastId?: number | undefined } = {}): void {
    this.session.enter(channel, room, lastId);
    this.wake();
  }

  /** Hears it no more. */
  leave(channel: number, room: string): void {
    this.session.leave(channel, room);
    this.wake();
  }

  /** Likes a room, so many times: counted, not delivered. */
  like(channel: number, room: string, count = 1): void {
    this.session.like(channel, room, count, now());
    this.wake();
  }

  /** Says something to everybody in a room and returns its client id; an event with it says what became of it. */
  publish(
    channel: number,
    room: string,
    payload: Uint8Array | string,
    { type = 0, clientId = randomId(), ...sending }: PublishOptions = {},
  ): Uint8Array {
    const bytes = typeof payload === "string" ? utf8(payload) : payload;
    this.session.publish(channel, clientId, room, type, bytes, now(), sending);
    this.wake();
    return clientId;
  }

  /** Up to which id a room's reliable messages are here: keep it for the next `enter`. */
  roomLastId(channel: number, room: string): number | undefined {
    return this.session.roomLastId(channel, room);
  }

  /** Says that everything up to `syncId` is processed; needed only with `autoAcknowledge: false`. */
  acknowledge(channel: number, syncId: number): void {
    this.session.acknowledge(channel, syncId, now());
    this.wake();
  }

  /** What a channel holds without a gap: keep it for the next start's `lastSyncId`. */
  lastSyncId(channel: number): number | undefined {
    return this.session.lastSyncId(channel);
  }

  /**
   * Says that the network is back, or another one: a connection is tried soon, or found out whether it still stands. Pages
   * and workers hear it from their platform; elsewhere, as in React Native, the app tells.
   */
  networkChanged(): void {
    this.session.handleNetworkChange(now());
    this.wake();
  }

  /** Logs out and stays away. */
  close(): void {
    if (this.closed) {
      return;
    }
    this.session.closeAll();
    // Not by a wake-up: this may be called by an event's receiver, within one.
    this.transmit();
    this.closed = true;
    clearTimeout(this.timer);
    NETWORK_EVENTS.forEach((type) => scope.removeEventListener?.(type, this.handleNetworkEvent, true));
    this.hangUp();
  }

  private readonly handleNetworkEvent = (event: globalThis.Event & { readonly persisted?: boolean }): void => {
    // `pageshow` also comes when a page is new.
    if (event.persisted !== false) {
      this.networkChanged();
    }
  };

  private wake(): void {
    // An event's receiver may call back in: the loop below takes care of what it did.
    if (this.closed || this.running) {
      return;
    }
    this.running = true;
    let pauseMs = 0;
    try {
      this.run();
      pauseMs = Math.min(Math.max(this.session.pollTimeout() - now(), 0), SLEEP_MS_MAX);
    } finally {
      this.running = false;
      // When the app's receiver threw, at once: its next event, and all that is due, follow.
      if (!this.closed) {
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.wake(), Math.ceil(pauseMs));
      }
    }
  }

  private run(): void {
    this.session.handleBacklog(this.socket?.bufferedAmount ?? 0, now());
    this.session.handleTimeout(now());
    for (;;) {
      // Before the events: it brings some itself.
      if (this.session.wantsHangUp) {
        this.hangUp();
        this.session.handleDisconnected(now());
      }
      const event = this.session.pollEvent(now());
      if (event === undefined) {
        break;
      }
      if (event.type === "disconnected" && event.reason.why === "sent-away") {
        this.alternate = event.reason.alternate || undefined;
      }
      this.options.onEvent(event);
      if (this.closed) {
        return;
      }
    }
    if (this.session.wantsConnection(now())) {
      this.dial();
    }
    this.transmit();
  }

  private transmit(): void {
    const bytes = this.session.pollTransmit(now());
    if (bytes !== undefined && this.socket !== undefined) {
      this.socket.send(bytes as Uint8Array<ArrayBuffer>);
      this.session.handleBacklog(this.socket.bufferedAmount, now());
    }
  }

  private dial(): void {
    this.session.handleDialling(now());
    const url = elsewhere(this.options.url, this.alternate);
    this.alternate = undefined;
    const socket = new this.construct(url, SUBPROTOCOL);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    // What comes from a socket that was given up is of no interest.
    const tell = (act: (event: { readonly data?: unknown }) => void) => (event: never) => {
      if (this.socket === socket && !this.closed) {
        act(event);
        this.wake();
      }
    };
    socket.onopen = tell(() => this.session.handleConnected(now()));
    socket.onmessage = tell(({ data }) => {
      if (data instanceof ArrayBuffer) {
        this.session.handleBytes(new Uint8Array(data), now());
      }
    });
    socket.onclose = tell(() => {
      this.socket = undefined;
      this.session.handleDisconnected(now());
    });
    // `close` follows it.
    socket.onerror = () => {};
  }

  private hangUp(): void {
    this.socket?.close();
    this.socket = undefined;
  }
}

/** The same endpoint at another address, `host` or `host:port`: never with less protection than the app asked for. */
function elsewhere(url: string, address: string | undefined): string {
  if (address === undefined) {
    return url;
  }
  const other = new URL(url);
  // What is no address changes nothing.
  other.host = address;
  return other.href;
}

/** Milliseconds that never go back. */
function now(): number {
  return performance.now();
}

function randomId(): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(16));
}
