// The conversation that is open: its messages, the answer that streams in, and what one may do.

import { call, Refusal, stream } from "./api.js";
import { composer } from "./composer.js";
import { announce, toast } from "./dialogs.js";
import { beforePaint, fill, h } from "./dom.js";
import { iconButton, messageView } from "./message.js";
import { branch, newestLeaf, push, siblings } from "./tree.js";
import { t } from "./words.js";

/** Pixels from the end within which what streams in is followed. */
const NEAR = 80;

/**
 * @param {{ defaults: () => any, reads: (settings: any) => boolean, tokens: () => boolean, opened: (id: number | null) => void,
 *   changed: () => void, fail: (error: any) => void, lost: () => Promise<void> }} page
 */
export function chatView(page) {
  let chat = empty();
  /** The answer that streams in: the chat that it belongs to, and the way to leave it. */
  let live = null;
  /** The chat whose settings are not kept yet. */
  let unsaved = null;
  let resting = 0;
  const views = new Map();
  const greeting = h("div.greeting", {}, h("img", { src: "/ui/icon.svg", alt: "", width: 56, height: 56 }), h("h1", {}, t("greeting")), h("p.muted", {}, t("greetingHint")));
  const thread = h("div.thread");
  const toEnd = iconButton("down", t("toEnd"), () => scroll.scrollTo({ top: scroll.scrollHeight, behavior: "smooth" }), { class: "icon-button to-end", hidden: true });
  const scroll = h("div.scroll", {}, thread);
  const form = composer({ send: (said) => say(said, chat.leaf), stop, editLast, fail: toast, reads: () => page.reads(chat.settings) });
  const view = h("section.chat", { "aria-label": t("chat") }, scroll, toEnd, form);

  function empty() {
    return { id: null, title: "", settings: page.defaults(), leaf: null, messages: new Map() };
  }

  const near = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR;
  scroll.addEventListener("scroll", () => (toEnd.hidden = near()));
  const follow = () => (scroll.scrollTop = scroll.scrollHeight);
  new ResizeObserver(() => (toEnd.hidden = near())).observe(thread);

  const actions = {
    edit: (message, said) => say(said, message.parent),
    again: (message) => answer({ parent: message.parent }),
    turn: (message, by) => {
      const all = siblings(chat.messages, message);
      const other = all[all.indexOf(message) + by];
      if (!other) return;
      chat.leaf = newestLeaf(chat.messages, other.id);
      paint();
      views.get(other.id)?.querySelector(".branches button:not(:disabled)")?.focus();
      call("PATCH", `/ui/api/chats/${chat.id}`, { leaf: chat.leaf }).catch(page.fail);
    },
    decide: (message, decision) => call("POST", `/ui/api/answers/${message.id}/calls`, decision).catch(page.fail),
    tokens: page.tokens,
  };

  function paint() {
    const shown = branch(chat.messages, chat.leaf);
    const following = near();
    const children = shown.map((message) => {
      if (!views.has(message.id)) views.set(message.id, messageView(message, actions));
      views.get(message.id).update(placeOf(message));
      return views.get(message.id);
    });
    if (!children.length) children.push(greeting);
    const same = children.length === thread.children.length && children.every((child, i) => child === thread.children[i]);
    if (!same) fill(thread, ...children);
    form.setBusy(Boolean(live && live.chat === chat));
    if (following) follow();
  }
  const paintSoon = beforePaint(paint);

  /** Shows what an answer has grown by; all else is as it was. */
  const growSoon = beforePaint(() => {
    const grown = live?.chat === chat && views.get(live.message?.id);
    if (!grown) return;
    const following = near();
    grown.update(placeOf(live.message));
    if (following) follow();
  });

  /** Which of the versions a message is, and of how many. */
  function placeOf(message) {
    const all = siblings(chat.messages, message);
    return [all.indexOf(message) + 1, all.length];
  }

  async function say(said, parent) {
    const before = chat;
    try {
      if (chat.id === null) {
        const { id } = await call("POST", "/ui/api/chats", { settings: chat.settings });
        chat.id = id;
        chat.fresh = true;
        page.opened(id);
      }
    } catch (error) {
      form.restore(said);
      return page.fail(error);
    }
    if (chat === before) await answer({ parent, said });
  }

  /** Asks for an answer and shows it as it comes. */
  function answer(asked) {
    return listen(chat, "POST", `/ui/api/chats/${chat.id}/answers`, asked);
  }

  async function listen(own, method, path, asked) {
    if (live?.chat === own) return;
    live?.leave.abort();
    const mine = (live = { chat: own, leave: new AbortController(), message: null });
    form.setBusy(true);
    try {
      await settle();
      await stream(method, path, asked, (event) => hear(mine, event, asked), mine.leave.signal);
      if (mine.message?.state === "running") throw new Refusal(0, ""); // cut before its end
      announce(t("ended"));
    } catch (error) {
      if (!mine.leave.signal.aborted) await broken(mine, error, asked);
    } finally {
      if (live === mine) live = null;
      paintSoon();
    }
  }

  function hear(mine, event, asked) {
    const { chat: own } = mine;
    if (event.type === "begin") {
      begin(mine, event, asked);
      announce(t("begun"));
    } else {
      push(mine.message.parts, event);
      if (event.type === "end") mine.message.state = "done";
      if (chat === own) growSoon();
    }
  }

  function begin(mine, { user, answer: id }, asked) {
    const { chat: own } = mine;
    const made = Date.now();
    // Who comes back to an answer knows already what was asked.
    if (user && asked) own.messages.set(user, { id: user, parent: asked.parent, role: "user", parts: asked.said, state: "done", made });
    const known = own.messages.get(id);
    if (known) views.delete(id); // it is told from its beginning
    mine.message = { id, parent: known ? known.parent : (user ?? asked.parent), role: "assistant", parts: [], state: "running", made };
    own.messages.set(id, mine.message);
    own.leaf = id;
    own.fresh = false;
    if (chat !== own) return;
    paint();
    follow();
    page.changed();
  }

  /** The stream broke: nothing was kept of what was refused; what had begun may go on on the server. */
  async function broken(mine, error, asked) {
    if (asked?.said && !mine.message && chat === mine.chat) form.restore(asked.said);
    if (mine.chat.fresh) await call("DELETE", `/ui/api/chats/${mine.chat.id}`).catch(() => {});
    if (mine.chat.fresh && chat === mine.chat) {
      chat.id = null;
      page.opened(null);
    }
    if (error instanceof Refusal && error.status === 0) {
      if (mine.message) mine.message.state = "interrupted";
      paintSoon();
      await page.lost();
      if (chat === mine.chat && chat.id !== null) await open(chat.id);
    } else {
      page.fail(error);
    }
  }

  function stop() {
    if (live?.message) call("DELETE", `/ui/api/answers/${live.message.id}`).catch((error) => error.status !== 404 && page.fail(error));
  }

  function editLast() {
    const last = branch(chat.messages, chat.leaf).findLast((message) => message.role === "user");
    if (last && !live) views.get(last.id)?.edit();
  }

  /** Changes the settings; they are kept when they have come to rest, or before they are needed. */
  function put(settings) {
    chat.settings = settings;
    if (chat.id === null) return;
    clearTimeout(resting);
    unsaved = chat;
    resting = setTimeout(settle, 300);
  }

  async function settle() {
    clearTimeout(resting);
    const own = unsaved;
    unsaved = null;
    if (own) await call("PATCH", `/ui/api/chats/${own.id}`, { settings: own.settings }).catch(page.fail);
  }

  /** Opens a conversation, or a new one. */
  async function open(id) {
    settle();
    live?.leave.abort();
    live = null;
    views.clear();
    chat = empty();
    if (id !== null) {
      try {
        const found = await call("GET", `/ui/api/chats/${id}`);
        chat = { ...found, messages: new Map(found.messages.map((message) => [message.id, message])) };
      } catch (error) {
        page.opened(null);
        page.fail(error);
      }
    }
    fill(thread);
    paint();
    follow();
    if (chat.live) listen(chat, "GET", `/ui/api/answers/${chat.live}`);
  }

  view.open = open;
  view.stop = stop;
  view.paint = paint;
  view.current = () => chat;
  view.isLive = () => Boolean(live);
  view.focusWords = form.focusWords;
  view.put = put;
  paint();
  return view;
}
