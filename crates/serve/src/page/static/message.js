// One message as it is shown: what a person said, or an answer as it grows.

import { copy, fill, h } from "./dom.js";
import { icon } from "./icons.js";
import { render } from "./markdown.js";
import { renderTokens, tokenPlace } from "./tokens.js";
import { callCard, callsOf, fileLink } from "./tools.js";
import { wordsOf } from "./tree.js";
import { t } from "./words.js";

/**
 * @typedef {{ edit: (message: any, said: any[]) => void, again: (message: any) => void,
 *   turn: (message: any, by: number) => void, decide: (message: any, decision: any) => void,
 *   tokens: () => boolean }} Actions
 */

/** A button of an icon alone. */
export function iconButton(name, label, onclick, props = {}) {
  return h("button.icon-button", { type: "button", "aria-label": label, title: label, onclick, ...props }, icon(name));
}

/** The view of a message. `update(place)` shows what it holds now; `place` is [which, of how many]. */
export function messageView(message, actions) {
  return message.role === "user" ? userView(message, actions) : answerView(message, actions);
}

function branchSwitch(message, actions) {
  const count = h("span");
  const switcher = h("div.branches", { role: "group", "aria-label": t("versions") },
    iconButton("previous", t("versionBefore"), () => actions.turn(message, -1)), count,
    iconButton("next", t("versionAfter"), () => actions.turn(message, 1)));
  switcher.update = ([at, of]) => {
    switcher.hidden = of < 2;
    count.textContent = t("versionOf", { at, of });
    switcher.firstChild.disabled = at === 1;
    switcher.lastChild.disabled = at === of;
  };
  return switcher;
}

function copyButton(message) {
  const button = iconButton("copy", t("copyMessage"), async () => {
    const done = await copy(wordsOf(message));
    button.replaceChildren(icon(done ? "check" : "close"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

/** A file as a chip; one that lies on the server can be saved again. */
export function fileChip(file, remove) {
  const size = file.bytes ?? (file.base64 ? Math.floor((file.base64.replace(/=+$/, "").length * 3) / 4) : new TextEncoder().encode(file.text).length);
  const name = file.file ? fileLink(file.name, `/ui/api/files/${file.file}`) : h("bdi", {}, file.name);
  return h("span.chip", { title: file.name }, icon("attach"), name, h("span.muted", {}, t("bytes", { count: size })),
    remove && iconButton("close", t("removeFile", { name: file.name }), remove));
}

function userView(message, actions) {
  const files = message.parts.filter((part) => part.type === "file");
  const words = h("div.words", { dir: "auto" }, wordsOf(message));
  const switcher = branchSwitch(message, actions);
  const bubble = h("div.bubble", {}, files.length ? h("div.chips", {}, ...files.map((file) => fileChip(file))) : null, words);
  const tools = h("div.actions", {}, switcher, iconButton("edit", t("edit"), () => view.edit()), copyButton(message));
  const view = h("article.message.user", { "aria-label": t("youSaid") }, bubble, tools);
  view.update = (place) => switcher.update(place);
  view.edit = () => {
    const done = () => {
      fill(view, bubble, tools);
      tools.children[1].focus();
    };
    const editor = editForm(wordsOf(message), done, (text) => {
      done();
      actions.edit(message, [...files, { type: "text", text }]);
    });
    fill(view, editor);
    editor.area.focus();
  };
  return view;
}

function editForm(text, cancel, accept) {
  const area = h("textarea", { dir: "auto", "aria-label": t("editLabel"), rows: 3 });
  area.value = text;
  const form = h("form.edit", {}, area, h("div.row", {}, h("button.primary", {}, t("sendEdit")), h("button", { type: "button", onclick: cancel }, t("cancel"))));
  const send = (event) => {
    event.preventDefault();
    if (area.value.trim()) accept(area.value);
  };
  form.addEventListener("submit", send);
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      cancel();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
  });
  form.area = area;
  return form;
}

function answerView(message, actions) {
  const content = h("div.content");
  const note = h("div.note");
  const usage = h("span.usage.muted");
  const switcher = branchSwitch(message, actions);
  const again = iconButton("redo", t("again"), () => actions.again(message));
  const tools = h("div.actions", {}, switcher, copyButton(message), again, usage);
  const view = h("article.message.answer", { "aria-label": t("answer") }, content, note, tools);
  const cards = new Map();
  let shown = "";
  view.update = (place) => {
    const live = message.state === "running";
    const end = message.parts.find((part) => part.type === "end");
    // What has ended changes no more, unless its tokens are to be seen.
    const form = live ? "" : `${message.state} ${actions.tokens()}`;
    if (live || form !== shown) fitParts(content, message, actions, cards, live);
    shown = form;
    view.classList.toggle("live", live);
    view.setAttribute("aria-busy", String(live));
    tools.hidden = live;
    switcher.update(place);
    fill(note, ...noteOf(message, end));
    note.hidden = !note.hasChildNodes();
    usage.textContent = end?.usage ? t("tokens", { count: end.usage.completion_tokens }) : "";
  };
  view.edit = () => {};
  return view;
}

/** Fits the children of `content` to the parts: a child for each text and each call. */
function fitParts(content, message, actions, cards, live) {
  const calls = callsOf(message.parts);
  const shown = message.parts.filter((part) => part.type === "text" || part.type === "call");
  const children = shown.map((part, i) => {
    if (part.type === "call") {
      if (!cards.has(part.id)) cards.set(part.id, callCard((decision) => actions.decide(message, decision)));
      cards.get(part.id).update(calls.get(part.id), live);
      return cards.get(part.id);
    }
    const byToken = actions.tokens() && part.tokens?.length > 0;
    const old = content.children[i];
    const place = old && old.byToken === byToken ? old : byToken ? tokenPlace() : h("div.markdown");
    place.byToken = byToken;
    if (byToken) renderTokens(place, part.tokens);
    else render(place, part.text);
    return place;
  });
  if (!shown.length && live) {
    if (content.firstChild?.className !== "thinking") fill(content, h("div.thinking", {}, h("span"), h("span"), h("span")));
    return;
  }
  const same = children.length === content.children.length && children.every((child, i) => child === content.children[i]);
  if (!same) fill(content, ...children);
}

function noteOf(message, end) {
  if (message.state === "interrupted") return [h("p.warn", {}, t("interrupted"))];
  if (!end || message.state === "running") return [];
  switch (end.reason) {
    case "length":
      return [h("p", {}, t("endLength"))];
    case "cancelled":
      return [h("p", {}, t("endCancelled"))];
    case "limit":
      return [h("p", {}, t("endLimit"), end.message ? h("span.muted", { dir: "auto" }, ` (${end.message})`) : null)];
    case "error":
      return [h("p.warn", {}, t("endError", { message: end.message ?? "" }))];
    default:
      return [];
  }
}
