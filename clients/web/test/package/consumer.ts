// What an app in TypeScript writes: only has to compile.

import {
  type BusinessLevel, Client, Code, type Credential, type Event, type GroupAct, type GroupMember, GroupRole, type Login,
  type MessageClass, type PublishOptions, RoomError, type RoomMessage, type Sending, Session, SubmitError, type SubmitOptions,
  type Target, type TrafficMarks,
} from "moor-client";

const login: Login = { app: "shop", account: "alice", credential: new Uint8Array([1]), lastSyncId: 7 };

function memberText({ account, role }: GroupMember): string {
  return role === GroupRole.Owner ? `${account} owns it` : account;
}

function classText(name: MessageClass): string {
  return name === "transient" ? "not kept" : name;
}

function conversationText(conversation: Target): string {
  return typeof conversation === "string" ? conversation : conversation.group;
}

function describe(event: Event): string {
  switch (event.type) {
    case "connected":
      return `${event.gateway} ${event.heartbeatMs.toFixed()}`;
    case "not-connected":
      return `again in ${event.retryInMs} ms`;
    case "disconnected":
      return event.reason.why === "refused" ? event.reason.detail : event.reason.why;
    case "opened":
      return event.session.toString(16);
    case "closed":
      return event.code === Code.Kicked ? "kicked" : `${event.reason} ${event.reopens}`;
    case "message":
      return `${event.from} ${event.syncId ?? classText(event.class)} ${event.marks.source ?? "-"} ${event.payload.byteLength}`;
    case "group-message":
      return `${event.group} ${event.syncId} ${event.event?.removed.join() ?? event.payload.length}`;
    case "group-expired":
      return `${event.group}: ${event.last - event.first + 1} messages`;
    case "group-left":
      return event.group;
    case "group-answer":
      return event.code === Code.Ok ? event.members.map(memberText).join() : event.detail;
    case "room": {
      const texts = event.messages.map(({ id, from, type, payload }) => `${id ?? "-"} ${from} ${type} ${payload.length}`);
      return `${event.room}: ${texts.join()} ${event.online ?? 0} ${event.likes ?? 0} ${event.dropped}`;
    }
    case "room-refused":
      return `${event.room} ${event.reason}`;
    case "read-mark":
      return `${conversationText(event.conversation)} ${event.syncId}`;
    case "device-ack":
      return `${event.device} ${event.syncId}`;
    case "expired":
      return `${event.last - event.first + 1} messages`;
    case "accepted":
      return `${event.syncId} ${event.duplicate}`;
    case "delayed":
    case "refused":
      return event.detail;
    case "abandoned":
      return `${event.code}`;
  }
}

const client = new Client({ url: "wss://edge.example/", device: "d", WebSocket, onEvent: (event) => describe(event) });
client.open(1, login);
client.open(1, { ...login, credential: "a.b.c", lastSyncId: client.lastSyncId(1) });
const token = new Map<string, Credential>();
client.open(1, { ...login, credential: () => token.get("alice") });
client.networkChanged();
try {
  const id: Uint8Array = client.submit(1, "bob", "hello");
  client.submit(1, "bob", new Uint8Array(3), id);
  const level: BusinessLevel = 2;
  const marks: TrafficMarks = { source: "qr", campaign: "spring" };
  const once: Sending = { class: "transient", level, marks };
  const options: SubmitOptions = { ...once, clientId: id };
  client.submit(1, "bob", "typing", options);
} catch (error) {
  if (error instanceof SubmitError && (error.why === "queue-full" || error.why === "offline")) {
    client.close();
  }
}
const id: number | undefined = client.lastSyncId(1);
client.acknowledge(1, id ?? 0);
try {
  client.markRead(1, "bob", 7);
  client.markRead(1, { group: "friends" }, 7);
} catch (error) {
  if (error instanceof SubmitError && error.why === "sync-id") {
    client.close();
  }
}

const create: GroupAct = { act: "create", title: "Friends", members: ["bob"] };
const request: number = client.group(1, "friends", create);
client.group(1, "friends", { act: "role", account: "bob", role: GroupRole.Admin });
client.submit(1, { group: "friends" }, "hello");
client.acknowledgeGroup(1, "friends", 1);
const groupPositions: Record<string, number> = client.groupPositions(1);
client.open(3, { app: "shop", account: "alice", groupPositions });

try {
  client.enter(1, "live", { lastId: client.roomLastId(1, "live") });
  const options: PublishOptions = { type: 1, level: 0, marks: { release: "gray-2" } };
  client.publish(1, "live", "hello", options);
  client.like(1, "live");
  client.leave(1, "live");
} catch (error) {
  if (error instanceof RoomError && error.why === "too-many") {
    client.close();
  }
}

const session = new Session({
  device: "d", heartbeatMaxMs: 60_000, autoAcknowledge: false, readMarks: true, random: Math.random,
});
const bytes: Uint8Array | undefined = session.pollTransmit(0);

// @ts-expect-error A login has an account.
client.open(2, { app: "shop" });
// @ts-expect-error Whom to add is to be said.
client.group(1, "friends", { act: "add" });
// @ts-expect-error Nobody but the server commands.
client.submit(1, "bob", "hello", { class: "command" });
// @ts-expect-error There are three levels.
client.submit(1, "bob", "hello", { level: 3 });
// @ts-expect-error Its type says what a room's message is worth.
client.publish(1, "live", "hello", { class: "normal" });
// @ts-expect-error There is no such reason.
const never = (error: SubmitError): boolean => error.why === "because";

const last = (messages: readonly RoomMessage[]): number | undefined => messages.at(-1)?.id;

export { bytes, last, never, request };
