// The page as a whole: which view is open, colours, the model, the keyboard, and what goes wrong.

import { call, onKeyWanted, Refusal } from "./api.js";
import { chatView } from "./chat.js";
import { prompt, toast } from "./dialogs.js";
import { fill, h, memory } from "./dom.js";
import { icon } from "./icons.js";
import { loadView } from "./load.js";
import { iconButton } from "./message.js";
import { openSettings } from "./settings.js";
import { sidebar } from "./sidebar.js";
import { t } from "./words.js";

onKeyWanted((wrong) => prompt(t(wrong ? "keyWrong" : "keyTitle"), t("keyLabel"), { type: "password", hint: t("keyHint"), yes: t("send") }));

/** Says what went wrong, and what to do. */
function fail(error) {
  if (!(error instanceof Refusal)) return toast(String(error?.message ?? error));
  if (error.status === 0) return lost();
  const values = { message: error.message, seconds: error.retryAfter ?? 10 };
  const word = [400, 404, 409, 413, 429, 503].includes(error.status) ? `refused${error.status}` : null;
  toast(word ? t(word, values) : error.message);
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const banner = h("div.banner", { role: "status", hidden: true });
let waiting = null;

/** Waits until the server answers and has its model; says so meanwhile. */
function lost() {
  waiting ??= (async () => {
    for (let ok = false; !ok; ) {
      const health = await fetch("/health").catch(() => null);
      ok = health?.ok ?? false;
      fill(banner, t(ok || health?.status === 503 ? "loading" : "lost"));
      banner.hidden = ok;
      await sleep(1000); // when all is well too: what was refused is not asked for without end
    }
    banner.hidden = true;
    waiting = null;
    nav.show();
    learn();
  })();
  return waiting;
}

const THEMES = ["system", "light", "dark"];
const THEME_WORDS = { system: "systemTheme", light: "light", dark: "dark" };
const THEME_ICONS = { system: "system", light: "sun", dark: "moon" };
let theme = THEMES.includes(memory.get("theme")) ? memory.get("theme") : "system";
const themeButton = iconButton("system", "", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  memory.set("theme", theme);
  dress();
});

function dress() {
  document.documentElement.dataset.theme = theme;
  const label = t("theme", { name: t(THEME_WORDS[theme]) });
  themeButton.setAttribute("aria-label", label);
  themeButton.title = label;
  fill(themeButton, icon(THEME_ICONS[theme]));
}

let showTokens = memory.get("tokens") === "yes";
const defaults = () => {
  const own = JSON.parse(memory.get("settings") ?? "{}");
  return { ...own, ...(showTokens ? { logprobs: true, top_logprobs: 5 } : {}) };
};

const chat = chatView({
  defaults,
  reads: ({ tools_off: off = [] }) => serverTools.some(({ name }) => ["python", "search"].includes(name) && !off.includes(name)),
  tokens: () => showTokens,
  opened: (id) => {
    history.replaceState(null, "", id === null ? "#/" : `#/chat/${id}`);
    nav.mark();
    header();
  },
  changed: () => nav.show(),
  fail,
  lost,
});
const nav = sidebar({
  current: () => (location.hash.startsWith("#/load") ? null : chat.current().id),
  close: () => openNav(false),
  gone: (id) => {
    if (chat.current().id === id) location.hash = "#/";
  },
  listed: (chats) => {
    const open = chat.current();
    open.title = chats.find((one) => one.id === open.id)?.title ?? open.title;
    header();
  },
  fail,
  theme: themeButton,
});
const load = loadView();

const title = h("h1.title", { dir: "auto" });
const models = h("select.models", { "aria-label": t("model"), hidden: true });
models.addEventListener("change", () => chat.put({ ...chat.current().settings, model: models.value }));
const tokensButton = iconButton("probabilities", t("probabilities"), () => {
  showTokens = !showTokens;
  memory.set("tokens", showTokens ? "yes" : null);
  const { logprobs, top_logprobs, ...rest } = chat.current().settings;
  chat.put(showTokens ? { ...rest, logprobs: true, top_logprobs: 5 } : rest);
  header();
  chat.paint();
});
const settingsButton = iconButton("settings", t("settings"), settings);
const menuButton = iconButton("menu", t("menu"), () => openNav(!document.body.classList.contains("nav-open")), { class: "icon-button only-narrow" });
const top = h("header.top", {}, menuButton, title, h("div.tools", {}, models, tokensButton, settingsButton));
const scrim = h("div.scrim", { onclick: () => openNav(false) });
const main = h("main", { id: "main" }, top, banner, chat, load);
const skip = h("a.skip", { href: "#words" }, t("skip"));
skip.addEventListener("click", (event) => {
  event.preventDefault();
  chat.focusWords();
});
document.body.append(skip, nav, scrim, main);

function openNav(open) {
  document.body.classList.toggle("nav-open", open);
  nav.inert = narrow.matches && !open;
  main.inert = narrow.matches && open;
}
const narrow = matchMedia("(max-width: 48rem)");
narrow.addEventListener("change", () => openNav(false));

let served = [];
let tools = false;
/** Tools that the server runs. */
let serverTools = [];

/** Learns what the server has. */
async function learn() {
  try {
    served = (await call("GET", "/v1/models")).data.map((model) => model.id);
    tools = Boolean((await call("GET", "/v1/capabilities")).tools);
    serverTools = (await call("GET", "/ui/api/tools")).tools;
    header();
  } catch (error) {
    if (error.status === 503 || error.status === 0) lost();
    else fail(error);
  }
}

function settings() {
  openSettings({
    settings: chat.current().settings,
    changed: chat.put,
    asDefault: ({ model, logprobs, top_logprobs, ...rest }) => {
      memory.set("settings", JSON.stringify(rest));
      toast(t("asDefaultDone"));
    },
    tools,
    serverTools,
  });
}

function header() {
  const open = chat.current();
  const onLoad = location.hash === "#/load";
  title.textContent = onLoad ? "" : open.title || "";
  document.title = onLoad ? `${t("load")} · Herd` : open.title ? `${open.title} · Herd` : "Herd";
  fill(models, ...served.map((name) => h("option", { value: name }, name)));
  if (served.length && open.settings.model && !served.includes(open.settings.model)) {
    const { model, ...rest } = open.settings; // it is no longer served
    chat.put(rest);
  }
  models.value = chat.current().settings.model ?? served[0] ?? "";
  models.hidden = !served.length;
  tokensButton.setAttribute("aria-pressed", String(showTokens));
  top.querySelector(".tools").hidden = onLoad;
}

async function route() {
  const onLoad = location.hash === "#/load";
  chat.hidden = onLoad;
  load.hidden = !onLoad;
  if (onLoad) load.start();
  else load.stop();
  nav.querySelector(".load-link").toggleAttribute("aria-current", onLoad);
  openNav(false);
  if (!onLoad) {
    const id = Number(/^#\/chat\/(\d+)$/.exec(location.hash)?.[1]) || null;
    if (id !== chat.current().id || id === null) await chat.open(id);
    if (!narrow.matches) chat.focusWords();
  }
  nav.mark();
  header();
}
addEventListener("hashchange", route);

document.addEventListener("keydown", (event) => {
  const command = event.ctrlKey || event.metaKey;
  if (event.key === "Escape" && !document.querySelector("dialog[open], :popover-open")) {
    if (document.body.classList.contains("nav-open")) openNav(false);
    else chat.stop();
  } else if (command && event.key.toLowerCase() === "k") {
    event.preventDefault();
    if (narrow.matches) openNav(true);
    nav.search.focus();
    nav.search.select();
  } else if (command && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    location.hash = "#/";
  } else if (command && event.key === "," && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    settings();
  }
});

dress();
await learn();
nav.show();
route();
