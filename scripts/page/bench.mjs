// What the suite stands on: servers, a browser, checks that are counted.

import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [folder, herd, model] = process.argv.slice(2);
const require = createRequire(join(folder, "package.json"));
const { chromium } = require("playwright-core");
export { folder, model, require };

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const home = mkdtempSync(join(tmpdir(), "herd-page-"));
const shots = join(folder, "pictures");
mkdirSync(shots, { recursive: true });

/** Throws unless it holds. */
export function must(holds, what) {
  if (!holds) throw new Error(what);
}

/** Waits until `look` gives something true. */
export async function until(look, what, seconds = 20) {
  for (const end = Date.now() + 1000 * seconds; Date.now() < end; await new Promise((go) => setTimeout(go, 50))) {
    const found = await look();
    if (found) return found;
  }
  throw new Error(`never: ${what}`);
}

/** A server of a model; its conversations lie in a folder of their own by `name`. */
export async function serve(name, model, flags = [], port = 0) {
  return launch(["serve", "-m", model, "--port", String(port), "--data", file(`${name}.sqlite`), "-t", "1", ...flags]);
}

/** A place for a file of the servers'. */
export const file = (name) => join(home, name);

/** A command that says where it listens. */
export async function launch(words) {
  const child = spawn(herd, words, { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, HERD_HOME: home } });
  let said = "";
  child.stderr.on("data", (bytes) => (said += bytes));
  const url = await until(() => /listening on (http:\/\/[^,\s]+)/.exec(said)?.[1] ?? (child.exitCode !== null && Promise.reject(new Error(said))), "the server listens", 60);
  servers.push(child);
  return { url, port: Number(new URL(url).port), kill: () => child.kill("SIGKILL") };
}
const servers = [];

let browser;
let opened;
const failures = [];
let passed = 0;

/** Opens a page of the server; what the browser complains of is kept. */
export async function open(url, { ready = ".composer", ...options } = {}) {
  browser ??= await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS });
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: "en-GB", reducedMotion: "reduce", permissions: ["clipboard-read", "clipboard-write"], ...options });
  const page = await context.newPage();
  opened = page;
  page.complaints = [];
  page.elsewhere = [];
  page.setDefaultTimeout(15_000);
  page.on("pageerror", (error) => page.complaints.push(String(error)));
  page.on("console", (message) => message.type() === "error" && !message.text().startsWith("Failed to load resource") && page.complaints.push(message.text()));
  page.on("request", (request) => !request.url().startsWith(url) && !/^(data|blob):/.test(request.url()) && page.elsewhere.push(request.url()));
  await page.goto(url);
  await page.waitForSelector(ready);
  return page;
}

/** Runs a check on a new page; a browser's complaint or a request to elsewhere fails it too. */
export async function check(name, server, work, options = {}) {
  const only = process.env.ONLY;
  if (only && !name.includes(only)) return;
  let page;
  try {
    page = await open(server.url, options);
    await work(page);
    must(!page.complaints.length, `the browser complains: ${page.complaints[0]}`);
    must(!page.elsewhere.length, `something was asked of ${page.elsewhere[0]}`);
    passed += 1;
    console.log(`ok    ${name}`);
  } catch (error) {
    failures.push(name);
    console.log(`FAIL  ${name}\n      ${String(error.stack ?? error).split("\n").slice(0, 6).join("\n      ")}\n      ${opened?.complaints.join("\n      ")}`);
    await opened?.screenshot({ path: join(shots, `failed-${failures.length}.png`) }).catch(() => {});
  } finally {
    await opened?.context().close();
  }
}

/** A check without a page. */
export function plain(name, work) {
  try {
    work();
    passed += 1;
    console.log(`ok    ${name}`);
  } catch (error) {
    failures.push(name);
    console.log(`FAIL  ${name}\n      ${error.message}`);
  }
}

/** Keeps a picture, to be looked at. */
export const picture = (page, name) => page.screenshot({ path: join(shots, `${name}.png`) });

/** Ends all that was begun and says how it went. */
export async function finish() {
  await browser?.close();
  servers.forEach((child) => child.kill("SIGKILL"));
  rmSync(home, { recursive: true, force: true });
  console.log(`${passed} passed, ${failures.length} failed`);
  process.exit(failures.length ? 1 : 0);
}

const axe = require("axe-core").source;

/** Findings of axe that are serious or critical. */
export async function findings(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const bad = violations.filter((found) => ["serious", "critical"].includes(found.impact));
  return bad.map((found) => `${found.id}: ${found.nodes.map((node) => `${node.target} ${node.any[0]?.message ?? ""}`).slice(0, 3).join("; ")}`);
}
