// The client of the Moor gateway for browsers and Node. `Client` is for apps; `Session` is its core without I/O.

export { Client, type ClientOptions, type PublishOptions, type Socket, type SubmitOptions } from "./client.js";
export { Session, type SessionOptions } from "./session.js";
export type { Credential, Login } from "./channel.js";
export { Code, type Disconnect, type Event, RoomError, type RoomMessage, SubmitError } from "./events.js";
export type { MessageClass } from "./frame.js";
export {
  type GroupAct, type GroupAnswer, type GroupEvent, type GroupMember, GroupRole, type Membership,
} from "./groups.js";
export type { BusinessLevel, Sending, Target } from "./submit.js";
export type { TrafficMarks } from "./traffic.js";
