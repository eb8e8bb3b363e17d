// The server: requests, streams of events, and the key that it may want.

import { memory } from "./dom.js";

/** A request that the server refused, or that never came to it (status 0). */
export class Refusal extends Error {
  constructor(status, message, field = null, retryAfter = null) {
    super(message);
    this.status = status;
    this.field = field;
    this.retryAfter = retryAfter;
  }
}

/** Asks the person for a key: set by main.js. @type {(wrong: boolean) => Promise<string | null>} */
let askForKey = async () => null;
let asking = null;

export function onKeyWanted(ask) {
  askForKey = ask;
}

function headers(body) {
  const key = memory.get("key");
  return {
    ...(body === undefined ? {} : { "content-type": "application/json" }),
    ...(key ? { authorization: `Bearer ${key}` } : {}),
  };
}

async function send(method, path, body, signal) {
  for (;;) {
    const key = memory.get("key");
    let response;
    try {
      response = await fetch(path, { method, headers: headers(body), body: body === undefined ? undefined : JSON.stringify(body), signal });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Refusal(0, "");
    }
    if (response.ok) return response;
    if (response.status === 401) {
      // However many requests find the key wanting, the person is asked once.
      asking ??= askForKey(Boolean(key)).finally(() => (asking = null));
      const given = await asking;
      if (given) {
        memory.set("key", given);
        continue;
      }
    }
    throw await refusal(response);
  }
}

async function refusal(response) {
  const said = await response.json().catch(() => ({}));
  const error = said.error ?? {};
  const after = Number(response.headers.get("retry-after")) || null;
  return new Refusal(response.status, error.message ?? String(error), error.param ?? null, after);
}

/** @returns {Promise<any>} what the server says, as JSON */
export async function call(method, path, body) {
  return (await send(method, path, body)).json();
}

export async function text(path) {
  return (await send("GET", path)).text();
}

/** @returns {Promise<Blob>} a file of the server's */
export async function file(path) {
  return (await send("GET", path)).blob();
}

/** Listens to a stream of events until it ends. @param {(event: any) => void} hear */
export async function stream(method, path, body, hear, signal) {
  const response = await send(method, path, body, signal);
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (signal?.aborted) throw error;
      throw new Refusal(0, "");
    });
    rest += decoder.decode(value, { stream: !done });
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data: "));
      if (data.length) hear(JSON.parse(data.map((line) => line.slice(6)).join("\n")));
    }
    if (done) return;
  }
}
