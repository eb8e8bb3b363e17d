// The load of the server: figures of /metrics, as numbers and as lines.

import { Refusal, text } from "./api.js";
import { fill, h } from "./dom.js";
import { language, t } from "./words.js";

const EVERY = 2000; // milliseconds
const KEPT = 60; // points of a line

/** Figures by name; those of several models are added up. */
export function readMetrics(page) {
  const figures = {};
  for (const line of page.split("\n")) {
    const found = /^herd_(\w+)(?:\{[^}]*\})? ([-+0-9.eE]+)/.exec(line);
    if (found) figures[found[1]] = (figures[found[1]] ?? 0) + Number(found[2]);
  }
  return figures;
}

const rate = (name) => (now, then, seconds) => (now[name] - then[name]) / seconds;
const share = (part, whole) => (whole > 0 ? (100 * part) / whole : 0);

/** What is shown: its word, its unit, and how it comes from two readings. */
const CARDS = [
  ["running", "", (now) => now.requests_running],
  ["waiting", "", (now) => now.requests_waiting],
  ["answerRate", "unitTokens", rate("answer_tokens_total")],
  ["promptRate", "unitTokens", rate("prompt_tokens_total")],
  ["cacheHeld", "%", (now) => share(now.cache_pages_held, now.cache_pages)],
  ["cacheFound", "%", (now, then) => {
    const found = now.cached_tokens_total - then.cached_tokens_total;
    return share(found, found + now.prompt_tokens_total - then.prompt_tokens_total);
  }],
  ["busy", "%", (now, then, seconds) => Math.min(100, (100 * (now.step_seconds_total - then.step_seconds_total)) / seconds)],
  ["answersRate", "unitMinute", (now, then, seconds) => (60 * (now.answers_ended_total - then.answers_ended_total)) / seconds],
];

/** The view; it asks while it is shown. */
export function loadView() {
  const cards = CARDS.map(([word, unit, figure]) => card(word, unit, figure));
  const totals = h("p.muted.totals");
  const problem = h("p.warn", { role: "status" });
  const view = h("section.load", { "aria-labelledby": "load-title", tabindex: 0, hidden: true }, h("h1", { id: "load-title" }, t("load")), problem, h("div.cards", {}, ...cards), totals);
  let last = null;
  let timer = 0;

  const look = async () => {
    try {
      const now = { at: performance.now(), figures: readMetrics(await text("/metrics")) };
      if (last) {
        const seconds = (now.at - last.at) / 1000;
        for (const card of cards) card.add(now.figures, last.figures, seconds);
      }
      last = now;
      fill(problem);
      const number = new Intl.NumberFormat(language());
      totals.textContent = t("totals", {
        answers: number.format(now.figures.answers_ended_total), tokens: number.format(now.figures.answer_tokens_total),
        prompts: number.format(now.figures.prompt_tokens_total), panics: number.format(now.figures.panics_total),
      });
    } catch (error) {
      fill(problem, error instanceof Refusal && error.status ? error.message : t("lost"));
    }
    if (timer) timer = setTimeout(look, last && cards[0].points.length ? EVERY : 500);
  };
  view.start = () => {
    if (timer) return;
    timer = 1;
    look();
  };
  view.stop = () => {
    clearTimeout(timer);
    timer = 0;
    last = null;
  };
  return view;
}

function card(word, unit, figure) {
  const value = h("span.value", {}, "–");
  const line = sparkline();
  const most = h("span.muted.most");
  const shown = h("article.card", {}, h("h2", {}, t(word)), h("p", {}, value, h("span.unit", {}, unit && unit !== "%" ? t(unit) : unit)), line, most, h("p.muted.about", {}, t(`${word}_about`)));
  shown.points = [];
  shown.add = (now, then, seconds) => {
    const point = figure(now, then, seconds);
    shown.points.push(Number.isFinite(point) ? Math.max(0, point) : 0);
    if (shown.points.length > KEPT) shown.points.shift();
    const number = new Intl.NumberFormat(language(), { maximumFractionDigits: unit && shown.points.at(-1) < 100 ? 1 : 0 });
    value.textContent = number.format(shown.points.at(-1));
    most.textContent = t("most", { value: number.format(Math.max(...shown.points)) });
    line.draw(shown.points, unit === "%" ? 100 : 1);
  };
  return shown;
}

const svg = (name, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

/** A line of points on a field of 100 to 30; the newest stands at the end. */
function sparkline() {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line", "vector-effect": "non-scaling-stroke" });
  const field = svg("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", class: "sparkline", "aria-hidden": "true" });
  field.append(area, line);
  field.draw = (points, least) => {
    const top = Math.max(least, ...points);
    const at = (point, i) => `${(100 - ((points.length - 1 - i) * 100) / (KEPT - 1)).toFixed(2)} ${(29 - (28 * point) / top).toFixed(2)}`;
    const path = points.map(at).join("L");
    line.setAttribute("d", `M${path}`);
    area.setAttribute("d", `M${path}L100 30L${(100 - ((points.length - 1) * 100) / (KEPT - 1)).toFixed(2)} 30Z`);
  };
  return field;
}
