// The page of judges: two answers, a scale of seven grades, and a vote that is kept before the next pair is shown.

import { Refusal, call } from "/ui/api.js";
import { fill, h, memory } from "/ui/dom.js";
import { render } from "/ui/markdown.js";

/** Grades from left to right, with what is said of them. */
const GRADES = [
  [3, "A is much better"],
  [2, "A is better"],
  [1, "A is slightly better"],
  [0, "About the same"],
  [-1, "B is slightly better"],
  [-2, "B is better"],
  [-3, "B is much better"],
];

const bar = h("header.masthead");
const main = h("main", { tabindex: 0 });
const foot = h("section.vote", { "aria-label": "Your vote", hidden: true });
const spoken = h("p.unseen", { role: "status", "aria-live": "polite" });
document.body.append(bar, main, foot, spoken);

let judge = memory.get("judge");
/** What is shown, and what the judge has said of it so far. @type {any} */
let now = null;
/** The timer that asks again while answers are made, and how often was asked: only the last question counts. */
let waiting = 0;
let asked = 0;

// Time counts while the page is looked at.
let looked = 0;
let since = null;
function look() {
  if (since !== null) looked += performance.now() - since;
  since = document.visibilityState === "visible" && now ? performance.now() : null;
}
document.addEventListener("visibilitychange", look);

function theme() {
  const chosen = memory.get("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
}

function otherTheme() {
  const dark = memory.get("theme") === "dark" || (!memory.get("theme") && matchMedia("(prefers-color-scheme: dark)").matches);
  memory.set("theme", dark ? "light" : "dark");
  theme();
}

function showBar(told) {
  const state = told ? `${told.votes} ${told.votes === 1 ? "vote" : "votes"} of yours, ${told.left} ${told.left === 1 ? "pair" : "pairs"} left${told.unmade ? `, ${told.unmade} answers are being made` : ""}` : "";
  fill(
    bar,
    h("h1.brand", {}, "Which answer is better?"),
    h("span.progress", {}, state),
    judge && h("button.quiet.small", { type: "button", onclick: askName }, `You are ${judge}`),
    h("button.quiet.small", { type: "button", onclick: otherTheme }, "Light or dark"),
  );
}

function notice(...children) {
  now = null;
  look();
  foot.hidden = true;
  fill(main, h("div.notice", {}, ...children));
}

function askName() {
  clearTimeout(waiting);
  asked++; // what is under way comes too late
  showBar(null);
  const box = h("input", { id: "judge", name: "judge", maxlength: 40, autocomplete: "nickname", required: true });
  box.value = judge ?? "";
  const begin = (event) => {
    event.preventDefault();
    const name = box.value.trim();
    if (!name) return;
    judge = name;
    memory.set("judge", name);
    next();
  };
  notice(
    h("h2", {}, "Who judges?"),
    h("p", {}, "You will see pairs of answers to the same words. Say which is better, and by how much. Whose answers they are is not shown, and some pairs come twice."),
    h("form", { onsubmit: begin }, h("label", { for: "judge" }, "A short name"), box, h("button.primary", { type: "submit" }, "Begin")),
  );
  box.focus();
}

/** Asks for the next pair and shows it. */
async function next() {
  clearTimeout(waiting);
  const mine = ++asked;
  let told;
  try {
    told = await call("POST", "/arena/next", { judge });
  } catch (error) {
    if (mine !== asked) return;
    notice(h("h2", {}, "The server does not answer"), h("p.warn", { role: "alert" }, reason(error)), h("button.primary", { type: "button", onclick: next }, "Try again"));
    return;
  }
  if (mine !== asked) return;
  showBar(told);
  if (told.pair) {
    show(told.pair);
  } else if (told.unmade) {
    notice(h("h2", {}, "Answers are being made"), h("p", { role: "status" }, `${told.unmade} are missing. This page goes on by itself.`));
    waiting = setTimeout(next, 1500);
  } else {
    notice(h("h2", {}, "Nothing is left to judge"), h("p", { role: "status" }, `Thank you. You gave ${told.votes} ${told.votes === 1 ? "vote" : "votes"}.`));
  }
}

function reason(error) {
  return error instanceof Refusal && error.status ? error.message : "It may have ended. What you voted is kept.";
}

function turn(said) {
  const names = { user: "The user", assistant: "The assistant", system: "The system" };
  const words = h("div.words", { dir: "auto" });
  if (said.role === "assistant") {
    words.className = "markdown";
    written(words, said.content);
  } else {
    words.textContent = said.content;
  }
  return h(`div.turn.${said.role}`, {}, h("h3", {}, names[said.role] ?? said.role), words);
}

function written(place, text) {
  if (text.trim()) render(place, text);
  else place.append(h("p.empty", {}, "An answer without words"));
}

function side(name, said) {
  const answer = h("div.markdown", { dir: "auto" });
  const last = said.at(-1);
  written(answer, last.content);
  return h("article.side", { "aria-label": `Answer ${name}` }, h("h2", {}, `Answer ${name}`), ...said.slice(0, -1).map(turn), answer);
}

function show(pair) {
  now = { pair, grade: undefined, edited: null, follow: null, sending: false };
  looked = 0;
  since = null;
  look();
  now.sides = [side("A", pair.left), side("B", pair.right)];
  fill(main, h("div.inner", {}, h("div.before", {}, ...pair.messages.map(turn)), h("div.sides", {}, ...now.sides)));
  main.scrollTop = 0;
  foot.hidden = false;
  showVote();
  spoken.textContent = "A new pair of answers is shown.";
}

function showVote() {
  const grade = ([value, words], i) =>
    h("label.grade", {}, h("input", { type: "radio", name: "grade", value, onchange: () => choose(value) }), h("span", {}, h("kbd", { "aria-hidden": "true" }, String(i + 1)), words));
  now.keep = h("button.primary", { type: "button", disabled: true, onclick: () => vote(now.grade) }, "Keep vote", h("kbd", { "aria-hidden": "true" }, "Enter"));
  now.edit = h("button", { type: "button", disabled: true, onclick: () => write("edited") }, "Edit the better answer", h("kbd", { "aria-hidden": "true" }, "E"));
  now.say = h("button", { type: "button", disabled: true, onclick: () => write("follow") }, "Say more", h("kbd", { "aria-hidden": "true" }, "M"));
  now.fault = h("span.fault", { role: "alert" });
  now.boxes = h("div");
  const pass = h("button.quiet", { type: "button", onclick: () => vote(null) }, "I cannot say", h("kbd", { "aria-hidden": "true" }, "0"));
  fill(foot, h("div.inner", {}, h("fieldset", {}, h("legend", {}, "Which answer is better, and by how much?"), ...GRADES.map(grade)), now.boxes, h("div.deeds", {}, now.keep, now.edit, now.say, pass, now.fault)));
}

function choose(value) {
  if (!now || now.sending) return;
  const before = Math.sign(now.grade ?? 0);
  now.grade = value;
  foot.querySelector(`input[value="${value}"]`).checked = true;
  now.keep.disabled = false;
  now.edit.disabled = now.say.disabled = value === 0;
  now.sides[0].classList.toggle("better", value > 0);
  now.sides[1].classList.toggle("better", value < 0);
  // What was written belongs to the answer that was better then.
  if (before && before !== Math.sign(value)) {
    now.edited = now.follow = null;
    fill(now.boxes);
  }
}

/** Opens the box in which the better answer is edited, or the dialogue goes on. */
function write(which) {
  if (!now?.grade) return;
  if (!now[which]) {
    const name = now.grade > 0 ? "A" : "B";
    const label = which === "edited" ? `Answer ${name}, better still` : `What you say next, to answer ${name}`;
    const box = h("textarea", { id: which, rows: 4, dir: "auto" });
    if (which === "edited") box.value = (now.grade > 0 ? now.pair.left : now.pair.right).at(-1).content;
    now[which] = box;
    now.boxes.append(h("div.more", {}, h("label", { for: which }, label), box));
  }
  now[which].focus();
}

async function vote(grade) {
  if (!now || now.sending || grade === undefined) return;
  now.sending = true;
  const mine = asked;
  look();
  const text = (box) => (grade && box && box.value.trim() ? box.value : null);
  const before = grade > 0 ? now.pair.left : now.pair.right;
  const edited = text(now.edited);
  const body = {
    judge,
    show: now.pair.show,
    grade,
    seconds: looked / 1000,
    edited: edited === before.at(-1).content ? null : edited,
    follow: text(now.follow),
  };
  try {
    await call("POST", "/arena/vote", body);
  } catch (error) {
    if (mine !== asked) return; // the judge asked for another name meanwhile
    // Voted on elsewhere, in another window say: that vote stands, and the next pair comes.
    if (error.status !== 409) {
      now.sending = false;
      now.fault.textContent = error.status ? `Not kept: ${error.message}` : "Not kept yet: the server does not answer. Keep it again when it does.";
      return;
    }
  }
  if (mine === asked) await next();
}

document.addEventListener("keydown", (event) => {
  // A key that is held down says one thing, not many.
  if (!now || event.repeat || event.isComposing || event.altKey || event.metaKey) return;
  const writes = event.target instanceof HTMLTextAreaElement;
  if (event.key === "Enter" && (writes ? event.ctrlKey : event.target.tagName !== "BUTTON" && event.target.tagName !== "A")) {
    event.preventDefault();
    vote(now.grade);
    return;
  }
  if (writes) {
    if (event.key === "Escape") main.focus();
    return;
  }
  if (event.ctrlKey) return;
  const place = "1234567".indexOf(event.key);
  if (event.key.length === 1 && place >= 0) choose(GRADES[place][0]);
  else if (event.key === "0") vote(null);
  else if (event.key === "e") write("edited");
  else if (event.key === "m") write("follow");
  else return;
  event.preventDefault();
});

theme();
showBar(null);
if (judge) next();
else askName();
