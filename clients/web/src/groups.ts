// What is said about groups: requests, answers, changes.

import { type Code, SubmitError, codeOf } from "./events.js";
import * as limits from "./limits.js";
import { nameFault } from "./names.js";
import { Fields, WireError, Writer } from "./protobuf.js";

/** What a member may do. */
export const GroupRole = { None: 0, Member: 1, Admin: 2, Owner: 3 } as const;

/** One of {@link GroupRole}. */
export type GroupRole = (typeof GroupRole)[keyof typeof GroupRole];

/** An account and its role in a group. */
export interface GroupMember {
  readonly account: string;
  readonly role: GroupRole;
}

/** One of an account's groups. */
export interface Membership {
  readonly group: string;
  readonly role: GroupRole;
  readonly priority: number;
  readonly isMuted: boolean;
}

/** A change of a group: an entry of its timeline. */
export interface GroupEvent {
  /** Who changed it; empty: a backend service. */
  readonly by: string;
  readonly created: boolean;
  readonly title: string;
  /** Anybody may join. */
  readonly isOpen: boolean;
  /** Who has this role from now on. */
  readonly set: readonly GroupMember[];
  /** Who is no member any more. */
  readonly removed: readonly string[];
  readonly dissolved: boolean;
}

/** What is asked of a group. */
export type GroupAct =
  /** Makes it; the asking account is its owner. */
  | { readonly act: "create"; readonly title?: string; readonly isOpen?: boolean; readonly members?: readonly string[] }
  | { readonly act: "add" | "remove"; readonly accounts: readonly string[] }
  | { readonly act: "role"; readonly account: string; readonly role: GroupRole }
  | { readonly act: "join" | "leave" | "dissolve" }
  /** `list`: the account's own groups, whatever group is named. A page: the names behind `after`. */
  | { readonly act: "members" | "list"; readonly after?: string }
  | { readonly act: "prefer"; readonly priority: number; readonly isMuted: boolean };

/** What came of it. */
export interface GroupAnswer {
  /** The request's. */
  readonly id: number;
  readonly code: Code;
  readonly detail: string;
  /** Newest entry of the group's timeline that it was answered from or made. */
  readonly syncId: number;
  readonly members: readonly GroupMember[];
  readonly groups: readonly Membership[];
  /** There are names behind the last one. */
  readonly more: boolean;
  readonly title: string;
  readonly isOpen: boolean;
}

/** Fields of the acts in a request. */
const ACTS: Readonly<Record<GroupAct["act"], number>> = {
  create: 3, add: 4, remove: 5, role: 6, dissolve: 7, join: 8, leave: 9, members: 10, list: 11, prefer: 12,
};

/** A request's body; {@link SubmitError} when it is about what is no group. */
export function encodeRequest(id: number, group: string, act: GroupAct): Uint8Array {
  const name = act.act === "list" ? "" : group;
  const fault = act.act === "list" ? undefined : nameFault("group", group, limits.GROUP_BYTES_MAX);
  if (fault !== undefined) {
    throw new SubmitError("name", fault);
  }
  return new Writer().number(1, id).text(2, name).message(ACTS[act.act], encodeAct(act)).finish();
}

function encodeAct(act: GroupAct): Uint8Array {
  const body = new Writer();
  switch (act.act) {
    case "create":
      body.text(1, act.title ?? "").number(2, Number(act.isOpen ?? false));
      act.members?.forEach((account) => body.text(3, account));
      break;
    case "add":
    case "remove":
      act.accounts.forEach((account) => body.text(1, account));
      break;
    case "role":
      body.text(1, act.account).number(2, act.role);
      break;
    case "members":
    case "list":
      body.text(1, act.after ?? "");
      break;
    case "prefer":
      body.number(1, act.priority).number(2, Number(act.isMuted));
      break;
    case "join":
    case "leave":
    case "dissolve":
      break;
  }
  return body.finish();
}

/** GROUP, from the server. */
export function decodeAnswer(answer: Fields): GroupAnswer {
  return {
    id: answer.number(1),
    code: codeOf(answer.number(2)),
    detail: answer.text(3),
    syncId: answer.number(4),
    members: answer.messages(5).map(memberOf),
    groups: answer.messages(6).map((membership) => ({
      group: membership.text(1),
      role: roleOf(membership.number(2)),
      priority: membership.number(3),
      isMuted: membership.bigint(4) !== 0n,
    })),
    more: answer.bigint(7) !== 0n,
    title: answer.text(8),
    isOpen: answer.bigint(9) !== 0n,
  };
}

/** A change as it stands in a timeline. One that cannot be read says nothing: it is stored, and would come again. */
export function decodeEvent(payload: Uint8Array): GroupEvent {
  try {
    const event = new Fields(payload);
    return {
      by: event.text(1),
      created: event.bigint(2) !== 0n,
      title: event.text(3),
      isOpen: event.bigint(4) !== 0n,
      set: event.messages(5).map(memberOf),
      removed: event.texts(6),
      dissolved: event.bigint(7) !== 0n,
    };
  } catch (error) {
    if (error instanceof WireError) {
      return { by: "", created: false, title: "", isOpen: false, set: [], removed: [], dissolved: false };
    }
    throw error;
  }
}

function memberOf(member: Fields): GroupMember {
  return { account: member.text(1), role: roleOf(member.number(2)) };
}

function roleOf(role: number): GroupRole {
  return Object.values(GroupRole).find((known) => known === role) ?? GroupRole.None;
}
