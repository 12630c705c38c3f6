// What the steps of both JavaScript clients are made of: patience, inboxes, comparisons.

import assert from "node:assert/strict";
import { inspect } from "node:util";

const PATIENCE = 10_000; // ms for a single answer

export class WampError extends Error {
  constructor(uri, args, kwargs) {
    super(`${uri} ${inspect(args)} ${inspect(kwargs)}`);
    Object.assign(this, { uri, args: args ?? [], kwargs: kwargs ?? {} });
  }
}

export function soon(promise, what = "an answer") {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export async function failure(promise) {
  const result = await soon(promise).catch((error) => error);
  assert(result instanceof WampError, `no WAMP error but ${inspect(result)}`);
  return result;
}

// What arrived at a subscription, in order.
export class Inbox {
  #arrived = [];
  #waiting = [];
  put = (args, kwargs, details) => {
    const item = { args, kwargs, details };
    if (this.#waiting.length > 0) this.#waiting.shift()(item);
    else this.#arrived.push(item);
  };
  next() {
    if (this.#arrived.length > 0) return Promise.resolve(this.#arrived.shift());
    return soon(new Promise((resolve) => this.#waiting.push(resolve)), "an event");
  }
  get empty() {
    return this.#arrived.length === 0;
  }
}

export const MEMBER = { method: "ticket", authid: "joe", secret: "joe's ticket", realm: "interop" };
export const GUEST = { method: "anonymous", realm: "interop" };

// Public keys of the private keys of tests/interop/app, which are one octet 32 times.
export const PUBLIC_KEYS = {
  ["01".repeat(32)]: "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c",
  ["02".repeat(32)]: "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394",
};

const EXACT = 2n ** 53n; // up to here a number is as good as a BigInt

// Maps of some decoders have no prototype, bytes are Buffer or Uint8Array, 64-bit integers may be BigInt: the same value.
function plain(value) {
  if (typeof value === "bigint") return -EXACT <= value && value <= EXACT ? Number(value) : value;
  if (value instanceof Uint8Array) return { bytes: [...value] };
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
}

export function equal(seen, expected) {
  assert.deepEqual(plain(seen), plain(expected));
}
