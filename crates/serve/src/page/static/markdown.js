// Markdown to elements: parsed by marked, cleaned by DOMPurify, coloured by highlight.js.

import { copy, h } from "./dom.js";
import { icon } from "./icons.js";
import hljs from "./vendor/highlight.js";
import { marked } from "./vendor/marked.js";
import DOMPurify from "./vendor/purify.js";
import { t } from "./words.js";

marked.setOptions({ gfm: true, breaks: false });

const CLEAN = {
  USE_PROFILES: { html: true },
  FORBID_TAGS: ["style", "form", "input", "button", "select", "textarea", "dialog", "audio", "video", "source"],
  FORBID_ATTR: ["style", "id", "name", "class", "tabindex"],
  ADD_ATTR: ["data-language"],
  RETURN_DOM_FRAGMENT: true,
};

const renderer = new marked.Renderer();
// A class would be dropped with all others: the language goes by an attribute of our own.
renderer.code = ({ text, lang }) => {
  const language = /^[\w+#.-]{1,30}/.exec(lang ?? "")?.[0] ?? "";
  return `<pre data-language="${language}"><code>${escape(text)}</code></pre>`;
};
renderer.checkbox = ({ checked }) => (checked ? "☑ " : "☐ ");

function escape(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** Code longer than this is shown without colours while it streams, and after. */
const COLOURED_MAX = 50_000;

/**
 * Shows `text` in `target`, block by block: a block whose source is as before stays as it is, so
 * what streams in costs the last block alone, and a selection above it is kept.
 */
export function render(target, text) {
  const blocks = marked.lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
  blocks.forEach((block, i) => {
    const old = target.children[i];
    if (old && old.source === block.raw) return;
    const shown = element(block);
    shown.source = block.raw;
    if (old) old.replaceWith(shown);
    else target.append(shown);
  });
  while (target.children.length > blocks.length) target.lastElementChild.remove();
}

function element(block) {
  const html = marked.parser([block], { ...marked.defaults, renderer });
  const clean = DOMPurify.sanitize(html, CLEAN);
  clean.querySelectorAll("img").forEach(dressPicture); // before the document has them, and asks for them
  const shown = h("div.block", { dir: "auto" }, clean);
  shown.querySelectorAll("pre").forEach(dressCode);
  shown.querySelectorAll("table").forEach(dressTable);
  shown.querySelectorAll("a").forEach(dressLink);
  return shown;
}

function dressCode(pre) {
  const code = pre.querySelector("code") ?? pre;
  const text = code.textContent.replace(/\n$/, "");
  const language = pre.getAttribute("data-language") ?? "";
  if (hljs.getLanguage(language) && text.length < COLOURED_MAX) {
    const coloured = hljs.highlight(text, { language, ignoreIllegals: true }).value;
    code.replaceChildren(DOMPurify.sanitize(coloured, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true }));
  }
  const button = h("button.quiet.small", { type: "button" }, icon("copy"), h("span", {}, t("copy")));
  button.addEventListener("click", async () => {
    const done = await copy(text);
    button.lastChild.textContent = t(done ? "copied" : "copyFailed");
    setTimeout(() => (button.lastChild.textContent = t("copy")), 2000);
  });
  const frame = h("div.code", { dir: "ltr" });
  pre.replaceWith(frame);
  pre.tabIndex = 0;
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", language ? t("codeIn", { language }) : t("code"));
  frame.append(h("div.code-head", {}, h("span", {}, language || t("code")), button), pre);
}

function dressTable(table) {
  const frame = h("div.table", { tabindex: 0, role: "region", "aria-label": t("table") });
  table.replaceWith(frame);
  frame.append(table);
}

function dressLink(link) {
  if (!/^(https?:|mailto:)/i.test(link.getAttribute("href") ?? "")) {
    link.replaceWith(...link.childNodes); // to where, on this page?
    return;
  }
  link.target = "_blank";
  link.rel = "noopener noreferrer";
}

// The page loads nothing from elsewhere; a picture elsewhere becomes a link to it.
function dressPicture(picture) {
  const address = picture.getAttribute("src") ?? "";
  if (address.startsWith("data:image/")) {
    picture.alt ||= t("picture");
    return;
  }
  const words = t("pictureElsewhere", { name: picture.alt || address });
  picture.replaceWith(picture.closest("a") ? words : h("a", { href: address }, words));
}
