// The conversations: found, opened, renamed, saved and dropped.

import { call, text } from "./api.js";
import { confirm, prompt, showKeys, toast } from "./dialogs.js";
import { fill, h, later, save } from "./dom.js";
import { icon } from "./icons.js";
import { iconButton } from "./message.js";
import { language, t } from "./words.js";

const DAY = 86_400_000;

/** @param {{ current: () => number | null, close: () => void, gone: (id: number) => void, listed: (chats: any[]) => void, fail: (error: any) => void, theme: HTMLElement }} page */
export function sidebar(page) {
  const list = h("div.chats", { role: "list" });
  const search = h("input", { type: "search", id: "search", placeholder: t("search"), "aria-label": t("search"), dir: "auto" });
  const fresh = h("a.new", { href: "#/" }, icon("plus"), t("newChat"));
  const picker = h("input", { type: "file", accept: ".jsonl,.json", hidden: true, "aria-label": t("import") });
  const nav = h("nav.sidebar", { "aria-label": t("conversations") },
    h("header", {}, h("a.brand", { href: "#/" }, h("img", { src: "/ui/icon.svg", alt: "", width: 28, height: 28 }), "Herd"), iconButton("close", t("closeMenu"), page.close, { class: "icon-button only-narrow" })),
    fresh, h("div.search", {}, icon("search"), search), list,
    h("footer", {}, h("a.load-link", { href: "#/load" }, icon("load"), t("load")), page.theme, more(picker, page), picker));

  const show = async () => {
    try {
      const { chats, more: left } = await call("GET", `/ui/api/chats?q=${encodeURIComponent(search.value.trim())}`);
      fill(list, ...groups(chats).flatMap(([label, group]) => [h("h2", { role: "presentation" }, label), ...group.map(entry)]),
        !chats.length && h("p.muted", { role: "listitem" }, t(search.value ? "nothingFound" : "noChats")), left && h("p.muted", { role: "listitem" }, t("moreChats")));
      mark();
      page.listed(chats);
    } catch (error) {
      page.fail(error);
    }
  };
  const mark = () => {
    for (const link of list.querySelectorAll("a")) {
      if (link.hash === `#/chat/${page.current()}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  };
  const entry = (chat) => {
    const name = chat.title || t("untitled");
    return h("div.entry", { role: "listitem" }, h("a", { href: `#/chat/${chat.id}`, dir: "auto", title: name }, name), chatMenu(chat, page, show));
  };
  search.addEventListener("input", later(200, show));
  picker.addEventListener("change", async () => {
    const [file] = picker.files;
    picker.value = "";
    if (file) await bring(await file.text(), page).then(show);
  });
  nav.show = show;
  nav.mark = mark;
  nav.search = search;
  return nav;
}

function groups(chats) {
  const today = new Date().setHours(0, 0, 0, 0);
  const labels = [[t("today"), today], [t("lastWeek"), today - 6 * DAY], [t("before"), -Infinity]];
  const found = labels.map(([label]) => [label, []]);
  for (const chat of chats) found[labels.findIndex(([, since]) => chat.changed >= since)][1].push(chat);
  return found.filter(([, group]) => group.length);
}

/** A button that opens a list of things to do. */
function menu(label, name, items) {
  const list = h("div.menu", { popover: "auto", role: "menu", "aria-label": label });
  const button = iconButton(name, label, () => {
    list.togglePopover();
    place();
  }, { "aria-haspopup": "menu" });
  const place = () => {
    const at = button.getBoundingClientRect();
    list.style.left = `${Math.max(8, Math.min(at.left, innerWidth - list.offsetWidth - 8))}px`;
    list.style.top = `${at.bottom + list.offsetHeight + 4 < innerHeight ? at.bottom + 4 : at.top - list.offsetHeight - 4}px`;
    list.querySelector("button")?.focus();
  };
  fill(list, ...items.map(([word, image, work]) => h("button", { type: "button", role: "menuitem", onclick: () => {
    list.hidePopover();
    work();
  } }, icon(image), t(word))));
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...list.children];
    all[(all.indexOf(document.activeElement) + step + all.length) % all.length].focus();
  });
  return h("span.menu-place", {}, button, list);
}

function chatMenu(chat, page, show) {
  const path = `/ui/api/chats/${chat.id}`;
  const tried = (work) => async () => {
    try {
      await work();
    } catch (error) {
      page.fail(error);
    }
  };
  const rename = async () => {
    const title = await prompt(t("rename"), t("title"), { value: chat.title });
    if (title) await call("PATCH", path, { title });
    await show();
  };
  const drop = async () => {
    if (!(await confirm(t("delete"), t("deleteText", { title: chat.title || t("untitled") }), t("delete")))) return;
    await call("DELETE", path);
    page.gone(chat.id);
    await show();
  };
  const out = async () => save(`herd-${chat.id}.jsonl`, await text(`${path}/export`), "application/jsonl");
  return menu(t("menuOf", { title: chat.title || t("untitled") }), "more", [["rename", "edit", tried(rename)], ["export", "export", tried(out)], ["delete", "trash", tried(drop)]]);
}

function more(picker, page) {
  const out = () => text("/ui/api/export").then((rows) => save("herd.jsonl", rows, "application/jsonl"), page.fail);
  return menu(t("more"), "more", [["keyboard", "keyboard", showKeys], ["import", "down", () => picker.click()], ["exportAll", "export", out]]);
}

/** Makes conversations of rows of `messages`. */
async function bring(rows, page) {
  let count = 0;
  for (const row of rows.split("\n").filter((line) => line.trim())) {
    try {
      const { messages, tools } = JSON.parse(row);
      await call("POST", "/ui/api/chats", { messages, ...(tools ? { tools } : {}) });
      count += 1;
    } catch (error) {
      page.fail(error instanceof SyntaxError ? new Error(t("importWrong", { line: count + 1 })) : error);
      return;
    }
  }
  toast(t("imported", { count: new Intl.NumberFormat(language()).format(count) }));
}
