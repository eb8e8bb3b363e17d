// A conversation as a tree of messages: editing and answering again make branches.

/**
 * @typedef {{ type: string, text?: string, tokens?: any[], id?: string, name?: string,
 *   arguments?: any, ok?: boolean, reason?: string, message?: string, usage?: any }} Part
 * @typedef {{ id: number, parent: number | null, role: "user" | "assistant", parts: Part[],
 *   state: "running" | "done" | "interrupted", made: number }} Message
 */

/** The messages from the first to `leaf`. @param {Map<number, Message>} messages */
export function branch(messages, leaf) {
  const found = [];
  for (let at = messages.get(leaf); at; at = messages.get(at.parent)) found.unshift(at);
  return found;
}

/** The messages that stand where this one stands, oldest first. */
export function siblings(messages, message) {
  return [...messages.values()].filter((other) => other.parent === message.parent);
}

/** The newest end of the branches behind a message. */
export function newestLeaf(messages, id) {
  for (;;) {
    const behind = [...messages.values()].filter((message) => message.parent === id);
    if (!behind.length) return id;
    id = behind.at(-1).id;
  }
}

/** Adds an event to the parts of an answer, as the server does when it keeps them. */
export function push(parts, event) {
  const last = parts.at(-1);
  if (event.type === "text" && last?.type === "text") {
    last.text += event.text;
    if (event.tokens) (last.tokens ??= []).push(...event.tokens);
  } else {
    parts.push(structuredClone(event));
  }
}

/** The words of a message, calls and files apart. */
export function wordsOf(message) {
  return message.parts.filter((part) => part.type === "text").map((part) => part.text).join("");
}
