// An answer token by token: how likely each was, and what might have stood in its place.

import { h } from "./dom.js";
import { t } from "./words.js";

const tip = h("div.tip", { role: "tooltip", id: "token-tip", hidden: true });
document.body.append(tip);
addEventListener("hashchange", () => (tip.hidden = true));
addEventListener("scroll", () => (tip.hidden = true), { capture: true });

const percent = (logprob) => {
  const share = 100 * Math.exp(logprob);
  return `${share >= 99.95 ? "100" : share >= 10 ? share.toFixed(1) : share.toPrecision(2)} %`;
};

/** A token as it stands in the text; one that is no whole characters, by its bytes. */
const inText = (token) => (/^bytes:(\\x[0-9a-f]{2})+$/.test(token) ? `‹${token.slice(6).replaceAll("\\x", "")}›` : token);

/** The same where white space must be seen. */
const visible = (token) => JSON.stringify(inText(token)).slice(1, -1).replaceAll('\\"', '"').replace(/^ /, "␣") || "∅";

/** The class of a probability, from hardly expected to certain. */
function rank(logprob) {
  const share = Math.exp(logprob);
  return share < 0.05 ? "p0" : share < 0.2 ? "p1" : share < 0.5 ? "p2" : share < 0.9 ? "p3" : "p4";
}

/** Shows tokens in `target`; those that are there already stay. */
export function renderTokens(target, tokens) {
  while (target.children.length > tokens.length) target.lastElementChild.remove();
  for (let i = target.children.length; i < tokens.length; i++) {
    const span = h(`span.token.${rank(tokens[i].logprob)}`, {}, inText(tokens[i].token));
    span.said = tokens[i];
    target.append(span);
  }
}

/** A place for tokens; the pointer or the arrow keys choose one. */
export function tokenPlace() {
  const place = h("div.tokens", { dir: "auto", tabindex: 0, role: "group", "aria-label": t("tokensLabel"), "aria-describedby": "token-tip" });
  let chosen = null;
  const choose = (span) => {
    chosen?.classList.remove("chosen");
    chosen = span;
    if (span) show(span);
    else tip.hidden = true;
  };
  place.addEventListener("pointerover", (event) => choose(event.target.closest(".token")));
  place.addEventListener("pointerleave", () => choose(null));
  place.addEventListener("blur", () => choose(null));
  place.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = [...place.children].indexOf(chosen);
    choose(place.children[Math.min(Math.max(at + step, 0), place.children.length - 1)] ?? null);
  });
  return place;
}

function show(span) {
  span.classList.add("chosen");
  const { token, logprob, top = [] } = span.said;
  const row = (entry, own) =>
    h(own ? "tr.own" : "tr", {}, h("td", {}, h("code", {}, visible(entry.token))), h("td.number", {}, percent(entry.logprob)), h("td", {}, bar(entry.logprob)));
  const others = top.some((entry) => entry.token === token) ? top : [{ token, logprob }, ...top];
  tip.replaceChildren(h("table", {}, h("caption", {}, t("tokenCaption")), h("tbody", {}, ...others.map((entry) => row(entry, entry.token === token)))));
  tip.hidden = false;
  const place = span.getBoundingClientRect();
  const left = Math.min(Math.max(8, place.left), innerWidth - tip.offsetWidth - 8);
  const below = place.bottom + 6 + tip.offsetHeight < innerHeight;
  tip.style.left = `${left}px`;
  tip.style.top = `${below ? place.bottom + 6 : place.top - tip.offsetHeight - 6}px`;
}

function bar(logprob) {
  const filled = h("span");
  filled.style.width = `${Math.max(1, 100 * Math.exp(logprob))}%`;
  return h("span.bar", { "aria-hidden": "true" }, filled);
}
