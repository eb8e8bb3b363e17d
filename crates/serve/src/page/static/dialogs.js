// Questions in front of the page: yes or no, a line of text, and keys of the keyboard.

import { fill, h } from "./dom.js";
import { t } from "./words.js";

/** Opens a dialog; resolves to what it was closed with. */
function open(dialog) {
  document.body.append(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close(""));
    dialog.showModal();
  });
}

const buttons = (yes, danger) =>
  h("div.row.end", {}, h("button", { value: "", formnovalidate: true }, t("cancel")), h(danger ? "button.danger" : "button.primary", { value: "yes" }, yes));

/** Whether the person agrees. */
export async function confirm(title, text, yes) {
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, title), h("p", {}, text), buttons(yes, true)));
  return (await open(dialog)) === "yes";
}

/** A line of text, or `null`. */
export async function prompt(title, label, { value = "", type = "text", hint = "", yes = t("save") } = {}) {
  const input = h("input", { type, required: true, dir: "auto", id: "dialog-input", autocomplete: "off", maxlength: 200, "aria-describedby": "dialog-hint" });
  input.value = value;
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, title),
    h("label", { for: "dialog-input" }, label), input, h("p.muted", { id: "dialog-hint" }, hint), buttons(yes, false)));
  // Enter gives the value, not the first button of the form.
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    if (input.reportValidity()) dialog.close("yes");
  });
  return (await open(dialog)) === "yes" ? input.value.trim() : null;
}

/** What the keyboard does. */
export function showKeys() {
  const keys = [["Enter", "keySend"], ["Shift Enter", "keyLine"], ["Esc", "keyStop"], ["↑", "keyEdit"], ["Ctrl K", "keySearch"], ["Ctrl Shift O", "keyNew"], ["Ctrl ,", "keySettings"]];
  const rows = keys.map(([key, word]) => h("tr", {}, h("td", {}, ...key.split(" ").map((one) => h("kbd", {}, one))), h("td", {}, t(word))));
  const close = h("div.row.end", {}, h("button.primary", {}, t("close")));
  return open(h("dialog", { "aria-labelledby": "dialog-title" }, h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, t("keyboard")), h("table.keys", {}, h("tbody", {}, ...rows)), close)));
}

const toasts = h("div.toasts", { role: "alert" });
document.body.append(toasts);

/** Says something in passing. */
export function toast(message) {
  const shown = h("div.toast", {}, h("span", { dir: "auto" }, message), h("button.quiet.small", { type: "button", onclick: () => shown.remove() }, t("close")));
  toasts.append(shown);
  while (toasts.children.length > 3) toasts.firstChild.remove();
  setTimeout(() => shown.remove(), 12_000);
}

const status = h("div.unseen", { role: "status" });
document.body.append(status);

/** Says something to those who hear the page. */
export function announce(message) {
  fill(status, message);
}
