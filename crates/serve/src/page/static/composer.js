// Where one writes: words, files, send and stop.

import { fill, h } from "./dom.js";
import { icon } from "./icons.js";
import { fileChip, iconButton } from "./message.js";
import { t } from "./words.js";

const FILE_BYTES_MAX = 1 << 20;
const ALL_BYTES_MAX = 4 << 20;
const FILES_MAX = 20;

/**
 * @param {{ send: (said: any[]) => void, stop: () => void, editLast: () => void,
 *   fail: (message: string) => void, reads: () => boolean }} actions
 */
export function composer(actions) {
  let files = [];
  let busy = false;
  const area = h("textarea", { id: "words", rows: 1, dir: "auto", "aria-label": t("message"), placeholder: t("messageHint") });
  const chips = h("div.chips", { hidden: true });
  const picker = h("input", { type: "file", multiple: true, hidden: true, "aria-label": t("attach") });
  const attach = iconButton("attach", t("attach"), () => picker.click());
  const send = h("button.send", { "aria-label": t("send"), title: t("send") }, icon("send"));
  const form = h("form.composer", {}, chips, h("div.line", {}, attach, picker, area, send));

  const size = () => {
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight, innerHeight * 0.4)}px`;
  };
  const show = () => {
    fill(chips, ...files.map((file, i) => fileChip(file, () => {
      files = files.filter((_, k) => k !== i);
      show();
      area.focus();
    })));
    chips.hidden = !files.length;
    send.disabled = !busy && !files.length && !area.value.trim();
    size();
  };
  const add = async (list) => {
    for (const file of list) {
      const { message, ...held } = await contentOf(file, files, actions.reads());
      if (message) actions.fail(message);
      else files = [...files, { type: "file", name: file.name, ...held }];
    }
    show();
    area.focus();
  };
  const submit = () => {
    if (busy || send.disabled) return;
    const said = [...files, ...(area.value.trim() ? [{ type: "text", text: area.value }] : [])];
    if (!area.value.trim()) said.push({ type: "text", text: t("readFiles") });
    form.clear();
    actions.send(said);
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (busy) actions.stop();
    else submit();
  });
  area.addEventListener("input", show);
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    } else if (event.key === "ArrowUp" && !area.value && !busy) {
      event.preventDefault();
      actions.editLast();
    }
  });
  area.addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    add(event.clipboardData.files);
  });
  picker.addEventListener("change", () => {
    add([...picker.files]);
    picker.value = "";
  });
  form.addEventListener("dragover", (event) => event.preventDefault());
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    add(event.dataTransfer?.files ?? []);
  });

  form.setBusy = (now) => {
    busy = now;
    const label = t(busy ? "stop" : "send");
    send.setAttribute("aria-label", label);
    send.title = label;
    send.replaceChildren(icon(busy ? "stop" : "send"));
    show();
  };
  form.clear = () => {
    files = [];
    area.value = "";
    show();
  };
  /** Gives back what could not be sent. */
  form.restore = (said) => {
    files = said.filter((part) => part.type === "file");
    area.value = said.filter((part) => part.type === "text").map((part) => part.text).join("");
    show();
  };
  form.focusWords = () => area.focus();
  show();
  return form;
}

/** What a file holds, or why it is not taken; what is no text goes where tools read it. */
async function contentOf(file, others, reads) {
  const name = file.name;
  const all = others.reduce((sum, other) => sum + (other.text ?? other.base64 ?? "").length, file.size);
  if (others.length >= FILES_MAX) return { message: t("filesTooMany", { most: FILES_MAX }) };
  if (file.size > FILE_BYTES_MAX || all > ALL_BYTES_MAX) return { message: t("fileTooLong", { name, most: FILE_BYTES_MAX >> 20 }) };
  const bytes = new Uint8Array(await file.arrayBuffer());
  const other = () => (reads ? { base64: base64(bytes) } : { message: t("fileNoText", { name }) });
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return text.includes("\0") ? other() : { text };
  } catch {
    return other();
  }
}

function base64(bytes) {
  let all = "";
  for (let at = 0; at < bytes.length; at += 8192) all += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(all);
}
