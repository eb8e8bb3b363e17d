// A call of a tool and what came of it, as a card that opens and closes.

import { file as fetchFile } from "./api.js";
import { toast } from "./dialogs.js";
import { h, fill, saveBlob } from "./dom.js";
import { icon } from "./icons.js";
import { t } from "./words.js";

const OPEN_MAX = 4000; // characters of a result that are shown at once

/** What is known of each call, from the parts of an answer, in their order. */
export function callsOf(parts) {
  const calls = new Map();
  for (const part of parts) {
    if (part.type === "call") calls.set(part.id, { call: part });
    else if (part.type === "ask" && calls.has(part.id)) calls.get(part.id).ask = part;
    else if (part.type === "result" && calls.has(part.id)) calls.get(part.id).result = part;
  }
  return calls;
}

/** A card; `update` shows what is known by now. `decide` says what the person wants. */
export function callCard(decide) {
  const state = h("span.state");
  const name = h("code.name");
  const body = h("div.call-body");
  const card = h("details.call", {}, h("summary", {}, icon("tool"), name, state), body);
  let shown = "";
  card.update = ({ call, ask, result }, live) => {
    const waits = Boolean(ask && !result && live);
    const known = JSON.stringify([call, waits, result, live]);
    if (known === shown) return;
    shown = known;
    name.textContent = call.name;
    state.className = `state ${result ? (result.ok ? "good" : "bad") : waits ? "waits" : "open"}`;
    state.textContent = result ? t(result.ok ? "callDone" : "callFailed", { seconds: seconds(result.seconds) }) : t(waits ? "callWaits" : live ? "callRuns" : "callUnanswered");
    if (waits) card.open = true;
    fill(body, ...argumentsOf(call.arguments), waits && decision(call, ask, decide), result && labelled(t("result"), source(result.text)), result && files(result.files));
  };
  return card;
}

function seconds(value) {
  if (typeof value !== "number") return "";
  return value < 0.1 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(value < 10 ? 1 : 0)} s`;
}

/** Arguments as JSON; where one has several lines, as a program has, each by itself as it is. */
function argumentsOf(given) {
  const entries = Object.entries(given);
  if (!entries.some(([, value]) => typeof value === "string" && value.includes("\n"))) return [labelled(t("arguments"), source(JSON.stringify(given, null, 2)))];
  return entries.map(([name, value]) => labelled(name, source(typeof value === "string" ? value : JSON.stringify(value))));
}

const labelled = (label, content) => h("div.labelled", {}, h("div.label", {}, label), content);

function source(text) {
  const cut = text.length > OPEN_MAX;
  const pre = h("pre", { tabindex: 0, dir: "auto" }, cut ? text.slice(0, OPEN_MAX) : text);
  if (!cut) return pre;
  const more = h("button.quiet.small", { type: "button" }, t("showAll", { count: text.length }));
  more.addEventListener("click", () => {
    pre.textContent = text;
    more.remove();
  });
  return h("div", {}, pre, more);
}

function decision(call, ask, decide) {
  const form = h("form.decision");
  const given = ask.wants === "result" && h("textarea", { rows: 3, required: true, dir: "auto", "aria-label": t("resultOf", { name: call.name }), placeholder: t("resultHint") });
  const deny = h("button", { type: "button", onclick: () => decide({ id: call.id, allow: false }) }, t("deny"));
  fill(form, h("p", {}, t(given ? "askResult" : "askCall", { name: call.name })), given, h("div.row", {}, h("button.primary", {}, t("approve")), deny));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    decide({ id: call.id, allow: true, ...(given ? { result: given.value } : {}) });
  });
  return form;
}

function files(list) {
  if (!list?.length) return null;
  const one = (file) => h("li", {}, file.url ? fileLink(file.name, file.url) : h("bdi", {}, file.name), h("span.muted", {}, t(file.url ? "bytes" : "bytesGone", { count: file.bytes })));
  return h("ul.files", {}, ...list.map(one));
}

/** A link that saves a file: the request carries the key, which a browser's own would not. */
export function fileLink(name, url) {
  const link = h("a", { href: url, download: name, dir: "auto" }, name);
  link.addEventListener("click", async (event) => {
    if (!url.startsWith("/ui/api/")) return;
    event.preventDefault();
    try {
      saveBlob(name, await fetchFile(url));
    } catch (error) {
      toast(error.message || t("copyFailed"));
    }
  });
  return link;
}
