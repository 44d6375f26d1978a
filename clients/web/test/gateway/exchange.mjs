// What every platform must do with a real gateway: two accounts on one socket, messages both ways, broken connections.
// Runs in Node and in a page alike.

const WAIT_MS = 30_000;
/** Messages each way while connections break. */
const MESSAGES = 200;

/** Of the protocol's codes. */
const [NOT_FOUND, UNAVAILABLE, LIMIT] = [5, 7, 15];

const decode = (payload) => new TextDecoder().decode(payload);

function check(truth, what) {
  if (!truth) {
    throw new Error(what);
  }
}

/** A client and what it was told. */
export class Peer {
  events = [];
  waiting = [];

  constructor(Client, options) {
    this.client = new Client({ ...options, onEvent: (event) => this.take(event) });
  }

  take(event) {
    this.events.push(event);
    this.waiting = this.waiting.filter(({ condition, resolve }) => !condition() || resolve());
  }

  of(type, channel) {
    return this.events.filter((event) => event.type === type && (channel === undefined || event.channel === channel));
  }

  /** Texts of the messages of a channel. */
  texts(channel) {
    return this.of("message", channel).map(({ payload }) => decode(payload));
  }

  async until(what, condition) {
    if (condition()) {
      return;
    }
    let timer;
    await new Promise((resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`waited ${WAIT_MS} ms for ${what}`)), WAIT_MS);
      this.waiting.push({ condition, resolve });
    });
    clearTimeout(timer);
  }
}

/**
 * `options` make a client, without its name. `run` keeps the accounts of several runs apart. `breaks` are called one
 * after the other, each in the middle of the traffic. Returns what was done, for the log.
 */
export async function exchange(Client, options, run, breaks) {
  const app = "shop";
  const [alice, bob, carol] = ["alice", "bob", "carol"].map((name) => `${name}-${run}`);
  const web = new Peer(Client, { ...options, device: "web" });
  const phone = new Peer(Client, { ...options, device: "phone" });
  try {
    web.client.open(1, { app, account: alice, lastSyncId: 0 });
    web.client.open(2, { app, account: bob, lastSyncId: 0 });
    phone.client.open(1, { app, account: carol, lastSyncId: 0 });
    await web.until("two logins on one socket", () => web.of("opened").length === 2);
    await phone.until("a login", () => phone.of("opened").length === 1);
    check(web.of("connected").length === 1, "one connection carries both accounts");

    // Both ways, to and from each of the two.
    phone.client.submit(1, alice, "to alice");
    phone.client.submit(1, bob, "to bob");
    web.client.submit(1, carol, "from alice");
    await web.until("its messages", () => web.of("message").length === 2);
    await phone.until("a message", () => phone.of("message").length === 1);
    web.client.submit(2, carol, "from bob");
    await phone.until("two messages", () => phone.of("message").length === 2);
    check(web.texts(1).join() === "to alice" && web.texts(2).join() === "to bob", "each has its own");
    check(phone.texts(1).join() === "from alice,from bob", "both have written");
    check(phone.of("message").map(({ from }) => from).join() === `${alice},${bob}`, "as themselves");

    // A stream each way. With both connected, half a share answered and half a share on its way, something breaks.
    const half = Math.floor(MESSAGES / (breaks.length + 1) / 2);
    for (let n = 0; n < MESSAGES; n++) {
      phone.client.submit(1, alice, `down ${n}`);
      web.client.submit(1, carol, `up ${n}`);
      const at = Math.floor(n / half / 2);
      if (n % (2 * half) === half) {
        for (const peer of [web, phone]) {
          await peer.until("a connection", () => peer.of("connected").length > at);
          await peer.until("half a share", () => peer.of("message", 1).length >= n);
        }
      } else if (n % (2 * half) === 2 * half - 1 && breaks[at] !== undefined) {
        // Sooner and later: before the other half is sent, and when it is being answered.
        await new Promise((resolve) => setTimeout(resolve, at));
        await breaks[at]();
      }
    }
    const done = (peer) => peer.of("accepted").length === MESSAGES + 2;
    await web.until("every answer", () => done(web));
    await phone.until("every answer", () => done(phone));
    // The last of a timeline: what comes twice has come before it.
    phone.client.submit(1, alice, "end");
    web.client.submit(1, carol, "end");
    for (const [peer, way, first] of [[web, "down", ["to alice"]], [phone, "up", ["from alice", "from bob"]]]) {
      await peer.until("the end", () => peer.texts(1).includes("end"));
      const got = peer.texts(1);
      const sent = Array.from({ length: MESSAGES }, (_, n) => `${way} ${n}`);
      check(new Set(got).size === got.length, `${way}: nothing comes twice`);
      check([...first, ...sent, "end"].every((text) => got.includes(text)), `${way}: nothing is lost`);
      check(peer.of("message", 1).every(({ syncId }, at) => syncId === at + 1), `${way}: ids have no hole`);
    }
    for (const peer of [web, phone]) {
      const times = peer.of("disconnected").length;
      check(times >= breaks.length, `a connection broke ${times} times, not ${breaks.length}`);
    }

    // A new start of the app: what it kept does not come again, what it did not does.
    const kept = web.client.lastSyncId(1);
    web.client.close();
    phone.client.submit(1, alice, "later");
    const again = new Peer(Client, { ...options, device: "web" });
    try {
      again.client.open(1, { app, account: alice, lastSyncId: kept });
      again.client.open(2, { app, account: bob, lastSyncId: 0 });
      await again.until("the rest", () => again.of("message", 1).length > 0 && again.of("message", 2).length > 0);
      check(again.texts(1).join() === "later" && again.texts(2).join() === "to bob", "it goes on where it was");
    } finally {
      again.client.close();
    }
    const [times, twice] = [web, phone].reduce(
      ([a, b], { events }) => [
        a + events.filter(({ type }) => type === "disconnected").length,
        b + events.filter(({ duplicate }) => duplicate).length,
      ],
      [0, 0],
    );
    return `${2 * MESSAGES} messages, connections broken ${times} times, ${twice} answers lost and asked for again`;
  } finally {
    web.client.close();
    phone.client.close();
  }
}

/** A group of two who speak while their connections break, of another one who joins, and of who leaves. */
export async function groups(Client, options, run, breaks) {
  const [app, group] = ["shop", `friends-${run}`];
  const peers = [];
  const start = (name, kept) => {
    const peer = new Peer(Client, { ...options, device: name });
    peer.client.open(1, { app, account: `${name}-${run}`, ...kept });
    peers.push(peer);
    return peer;
  };
  const heard = (peer) => peer.of("group-message");
  const texts = (peer) => heard(peer).filter(({ event }) => event === undefined).map(({ payload }) => decode(payload));
  const ask = async (peer, act, about = group) => {
    const id = peer.client.group(1, about, act);
    await peer.until(`${act.act} to be answered`, () => peer.of("group-answer").some((answer) => answer.id === id));
    return peer.of("group-answer").find((answer) => answer.id === id);
  };
  const inOrder = (peer) => {
    const places = heard(peer).map(({ syncId }) => syncId);
    check(places.every((place, at) => at === 0 || place === places[at - 1] + 1), `${places}: without a hole, once`);
  };
  try {
    const [anna, ben] = [start("anna", { lastSyncId: 0 }), start("ben", { lastSyncId: 0 })];
    const created = await ask(anna, { act: "create", title: "Friends", members: [`ben-${run}`] });
    check(created.code === 0, `the group is there: ${created.code} ${created.detail}`);
    const { members, title } = await ask(ben, { act: "members" });
    check(title === "Friends" && members.map(({ role }) => role).sort().join() === "1,3", "an owner and a member");

    const share = Math.floor(MESSAGES / (breaks.length + 1));
    let said = 0;
    for (let at = 0; at <= breaks.length; at++) {
      for (const end = said + share; said < end; said++) {
        peers[said % 2].client.submit(1, { group }, `${said}`);
      }
      await ben.until("a part of it", () => texts(ben).length > said - share / 2);
      await breaks[at]?.();
    }
    for (const peer of [anna, ben]) {
      await peer.until("every message", () => texts(peer).length >= said);
      await peer.until("every answer", () => peer.of("accepted").length === said / 2);
      inOrder(peer);
      check(new Set(texts(peer)).size === said, "nothing is lost");
      check(heard(peer)[0].event?.created, "the group's beginning was told");
      check(peer.of("message").length === 0, "none of it is a message to the account");
    }

    // A new start of the app goes on where it was.
    const kept = { lastSyncId: ben.client.lastSyncId(1), groupPositions: ben.client.groupPositions(1) };
    check(kept.groupPositions[group] === heard(ben).at(-1).syncId, "it has all of it");
    ben.client.close();
    anna.client.submit(1, { group }, "later");
    await anna.until("its own word", () => texts(anna).includes("later"));
    const again = start("ben", kept);
    await again.until("what it missed", () => texts(again).length > 0);
    check(texts(again).join() === "later", "nothing comes twice");

    // Who joins hears what follows.
    const cleo = start("cleo");
    check((await ask(cleo, { act: "list" }, "")).groups.length === 0, "it is in none, and the router knows it is there");
    const added = await ask(anna, { act: "add", accounts: [`cleo-${run}`] });
    await cleo.until("its joining", () => heard(cleo).length > 0);
    check(heard(cleo)[0].syncId === added.syncId, "nothing before it");
    // An account's list follows its groups a moment later.
    let listed = [];
    for (let tries = 0; tries < 1000 && listed.length === 0; tries++) {
      listed = (await ask(cleo, { act: "list" }, "")).groups;
    }
    check(listed.map((membership) => membership.group).join() === group, "it is listed");

    check((await ask(again, { act: "leave" })).code === 0, "members may leave");
    await again.until("the end of it", () => again.of("group-left").some((event) => event.group === group));
    cleo.client.submit(1, { group }, "without ben");
    await anna.until("the last word", () => texts(anna).includes("without ben"));
    [anna, cleo, again].forEach(inOrder);
    check(!texts(again).includes("without ben"), "who left hears no more");
    check(again.client.groupPositions(1)[group] === undefined, "and keeps no place");
    return `${said} messages in a group, connections broken ${anna.of("disconnected").length} times`;
  } finally {
    peers.forEach(({ client }) => client.close());
  }
}

/** Rooms a session may be in, unless its gateway says otherwise. */
const ROOMS_PER_CHANNEL_MAX = 16;
/** What a room's messages are worth, unless its router says otherwise. */
const [NORMAL, RELIABLE] = [0, 1];

/** Two in a room, whose connections break while they speak: what is reliable is heard once and in order by both. */
export async function rooms(Client, options, run, breaks) {
  const [app, room] = ["shop", `live-${run}`];
  const enter = (device, lastId) => {
    const peer = new Peer(Client, { ...options, device });
    peer.client.open(1, { app, account: `${device}-${run}`, lastSyncId: 0 });
    peer.client.enter(1, room, { lastId });
    return peer;
  };
  const heard = (peer) => peer.of("room").flatMap(({ messages }) => messages);
  const reliable = (peer) => heard(peer).filter(({ id }) => id !== undefined);
  const text = ({ payload }) => decode(payload);
  const peers = [enter("stage", 0), enter("seat", 0)];
  const [stage, seat] = peers;
  try {
    // Whoever knows that both are there hears every message.
    for (const peer of peers) {
      await peer.until("two in the room", () => peer.of("room").some(({ online }) => online === 2));
    }
    stage.client.publish(1, room, "hello", { type: NORMAL });
    for (const peer of peers) {
      await peer.until("what is normal", () => heard(peer).some((message) => text(message) === "hello"));
      check(heard(peer).every(({ id, from }) => id === undefined && from === `stage-${run}`), "it is not reliable");
    }
    for (let like = 0; like < 5; like++) {
      seat.client.like(1, room);
    }
    await stage.until("likes", () => stage.of("room").some(({ likes }) => likes === 5));

    const share = Math.floor(MESSAGES / (breaks.length + 1));
    let said = 0;
    for (let at = 0; at <= breaks.length; at++) {
      for (const end = said + share; said < end; said++) {
        peers[said % 2].client.publish(1, room, `${said}`, { type: RELIABLE });
      }
      await stage.until("a part of it", () => reliable(stage).length > said - share / 2);
      await breaks[at]?.();
    }
    for (const peer of peers) {
      await peer.until("every reliable message", () => reliable(peer).length >= said);
      check(reliable(peer).every(({ id }, at) => id === at + 1), "ids have no hole and come once");
      check(new Set(reliable(peer).map(text)).size === said, "nothing is lost");
    }
    for (const [at, peer] of peers.entries()) {
      await peer.until("every answer", () => peer.of("accepted").length === said / 2 + (at === 0 ? 1 : 0));
      const own = reliable(peer).filter(({ from }) => from === `${peer === stage ? "stage" : "seat"}-${run}`);
      check(own.length === said / 2, "both have spoken");
    }

    // A new start of the app goes on where it was.
    const kept = seat.client.roomLastId(1, room);
    check(kept === said, `it has ${kept} of ${said}`);
    seat.client.close();
    stage.client.publish(1, room, "later", { type: RELIABLE });
    await stage.until("its own word", () => reliable(stage).length > said);
    const again = enter("seat", kept);
    peers.push(again);
    await again.until("what it missed", () => reliable(again).length > 0);
    check(reliable(again).map(text).join() === "later", "nothing comes twice");

    for (let number = 0; number < ROOMS_PER_CHANNEL_MAX; number++) {
      again.client.enter(1, `${room}-${number}`);
    }
    await again.until("the limit of rooms", () => again.of("room-refused").length === 1);
    check(again.of("room-refused")[0].code === LIMIT, "one was too many");
    return `${said} reliable messages in a room, connections broken ${stage.of("disconnected").length} times`;
  } finally {
    peers.forEach(({ client }) => client.close());
  }
}

/** Messages that nobody keeps: they reach who is there, tell their class, and are answered when nobody is. */
export async function classes(Client, options, run) {
  const app = "shop";
  const [dan, eve] = ["dan", "eve"].map((name) => `${name}-${run}`);
  const peers = [dan, eve].map((account) => {
    const peer = new Peer(Client, { ...options, device: "web" });
    peer.client.open(1, { app, account, lastSyncId: 0 });
    return peer;
  });
  const [from, to] = peers;
  try {
    // Whom a message has reached the router knows to be there.
    from.client.submit(1, eve, "stored");
    await to.until("a message", () => to.of("message").length === 1);
    for (const name of ["normal", "transient"]) {
      from.client.submit(1, eve, name, { class: name });
      await to.until(`a ${name} one`, () => to.texts(1).includes(name));
    }
    check(to.of("message").map((event) => event.class).join() === "reliable,normal,transient", "each tells its class");
    check(to.of("message").map(({ syncId }) => syncId ?? 0).join() === "1,0,0", "only one is stored");
    await from.until("every answer", () => from.of("accepted").length === 3);
    check(from.of("accepted").slice(1).every(({ syncId }) => syncId === 0), "the others have no place");

    const nobody = from.client.submit(1, `nobody-${run}`, "anybody?", { class: "transient" });
    await from.until("an answer", () => from.of("refused").length === 1);
    const [refused] = from.of("refused");
    check(refused.code === NOT_FOUND && refused.clientId.join() === nobody.join(), "nobody is there, and that is told");
    return "messages of each class";
  } finally {
    peers.forEach(({ client }) => client.close());
  }
}

/** Business levels: what is switched off is told at once, and what is kept goes out when it is on again. */
export async function levels(Client, options, run, degrade) {
  const [app, fred] = ["shop", `fred-${run}`];
  const peer = new Peer(Client, { ...options, device: "web" });
  const { client } = peer;
  try {
    client.open(1, { app, account: fred, lastSyncId: 0 });
    client.submit(1, fred, "before", { level: 2 });
    await peer.until("its own word", () => peer.texts(1).length === 1);
    await degrade(2);
    const kept = client.submit(1, fred, "kept", { level: 2 });
    const once = client.submit(1, fred, "once", { level: 2, class: "normal" });
    const said = client.publish(1, `news-${run}`, "said", { level: 2, type: RELIABLE });
    for (const [type, ids] of [["delayed", [kept, said]], ["refused", [once]]]) {
      await peer.until("every reason", () => peer.of(type).length >= ids.length);
      check(peer.of(type).map(({ clientId }) => clientId.join()).sort().join() === ids.map(String).sort().join(), type);
      check(peer.of(type).every(({ code, detail }) => code === UNAVAILABLE && detail.includes("level 2")), "it is said why");
    }
    client.submit(1, fred, "core", { level: 0 });
    client.submit(1, fred, "by default");
    await peer.until("what is not switched off", () => peer.texts(1).length === 3);
    await degrade(3);
    await peer.until("every answer", () => peer.of("accepted").length === 5);
    await peer.until("what was kept", () => peer.texts(1).length === 4);
    check(peer.texts(1).join() === "before,core,by default,kept", peer.texts(1).join());
    check(peer.of("delayed").length === 2 && peer.of("refused").length === 1, "each is told once");
    return "business levels";
  } finally {
    client.close();
    await degrade(3);
  }
}

/** Traffic marks: they come with a message whichever way it takes, kept or not. */
export async function marks(Client, options, run) {
  const [app, gina, group, room] = ["shop", `gina-${run}`, `marked-${run}`, `marked-${run}`];
  const given = { source: "qr-code", campaign: "frühling", release: "gray-2" };
  const peer = new Peer(Client, { ...options, device: "web" });
  const { client } = peer;
  const isGiven = (marks) => Object.keys(given).every((name) => marks[name] === given[name]);
  try {
    client.open(1, { app, account: gina, lastSyncId: 0 });
    client.enter(1, room, { lastId: 0 });
    client.group(1, group, { act: "create" });
    client.submit(1, gina, "unmarked");
    await peer.until("its own word", () => peer.of("message").length === 1);
    client.submit(1, gina, "kept", { marks: given });
    client.submit(1, gina, "once", { marks: given, class: "normal" });
    await peer.until("its own words", () => peer.of("message").length === 3);
    await peer.until("a group", () => peer.of("group-answer").length === 1);
    client.submit(1, { group }, "to a group", { marks: given });
    await peer.until("the group's", () => peer.of("group-message").length === 2);
    const heard = () => peer.of("room").flatMap(({ messages }) => messages);
    // What is reliable waits until the router knows of the room's member, what is normal does not.
    for (const [at, type] of [RELIABLE, NORMAL].entries()) {
      client.publish(1, room, "to a room", { marks: given, type });
      await peer.until("the room's", () => heard().length === at + 1);
    }
    const [unmarked, ...marked] = [...peer.of("message"), peer.of("group-message")[1], ...heard()];
    check(Object.keys(unmarked.marks).length === 0, "one has none");
    check(marked.length === 5 && marked.every((message) => isGiven(message.marks)), JSON.stringify(marked));
    return "traffic marks";
  } finally {
    client.close();
  }
}

/** How often a device says how far it has read, before a break and through it. */
const READS = 10;

/** Two devices of an account, whose connections break: each hears what the other has read, and acknowledged. */
export async function reads(Client, options, run, breaks) {
  const [app, hal, ida, group] = ["told", `hal-${run}`, `ida-${run}`, `read-${run}`];
  const peers = [];
  const start = (device) => {
    const peer = new Peer(Client, { ...options, device, readMarks: true });
    peer.client.open(1, { app, account: hal, lastSyncId: 0 });
    peers.push(peer);
    return peer;
  };
  /** How far a device knows a conversation to be read. */
  const far = (peer, name) => {
    const marks = peer.of("read-mark").filter(({ conversation }) => (conversation.group ?? conversation) === name);
    return Math.max(0, ...marks.map(({ syncId }) => syncId));
  };
  try {
    const [desk, phone] = [start("desk:1"), start("phone:1")];
    desk.client.submit(1, hal, "to both");
    const isTold = ({ device, syncId }) => device === "phone:1" && syncId === 1;
    await desk.until("what the phone has acknowledged", () => desk.of("device-ack").some(isTold));

    let upTo = 0;
    const read = () => {
      for (const end = upTo + READS; upTo < end; ) {
        upTo += 1;
        desk.client.markRead(1, ida, upTo);
        phone.client.markRead(1, { group }, upTo);
      }
    };
    const agree = async () => {
      for (const peer of peers) {
        await peer.until("what both have read", () => far(peer, ida) === upTo && far(peer, group) === upTo);
      }
    };
    for (const doBreak of breaks) {
      read();
      await agree();
      // These are on their way when it breaks.
      read();
      await doBreak();
    }
    await agree();
    // Who is back late is where the others are, and no mark goes back.
    phone.client.close();
    desk.client.markRead(1, ida, upTo + 1);
    desk.client.markRead(1, { group }, 1);
    await desk.until("its own mark", () => far(desk, ida) === upTo + 1);
    const again = start("phone:1");
    await again.until("what was read meanwhile", () => far(again, ida) === upTo + 1 && far(again, group) === upTo);
    const times = desk.of("disconnected").length;
    check(times >= breaks.length, `a connection broke ${times} times, not ${breaks.length}`);
    return `read up to ${upTo} by two devices, connections broken ${times} times`;
  } finally {
    peers.forEach(({ client }) => client.close());
  }
}

/** An idle client shows that it lives, and the gateway that it knows. `sent` and `heard` count PING and PONG. */
export async function heartbeat(Client, options, counts) {
  const peer = new Peer(Client, { ...options, device: "idle", heartbeatMaxMs: 1000 });
  try {
    await peer.until("CONNECTED", () => peer.of("connected").length === 1);
    check(peer.events[0].heartbeatMs === 1000, "the wish is granted");
    // Three intervals: twice the time after which the gateway hangs up on who is silent.
    await counts.until(3);
    check(peer.of("disconnected").length === 0, "the connection lives");
  } finally {
    peer.client.close();
  }
}
