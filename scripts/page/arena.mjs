// The suite of scripts/arena.sh. Two models that babble answer, people are played by a browser.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { check, file, findings, finish, folder, launch, must, picture, until } from "./bench.mjs";

const rows = [
  { id: "herds", prompt: "What is a herd?", skill: "open question answering" },
  { id: "poem", turns: ["Write two lines about rain.", "Now about snow."], skill: "creative writing" },
  { id: "code", messages: [{ role: "user", content: "Reverse a list in Python." }, { role: "assistant", content: "```python\nx[::-1]\n```" }, { role: "user", content: "And in place?" }], skill: "coding" },
  ...Array.from({ length: 9 }, (_, i) => ({ prompt: `Question ${i}: <img src=x onerror=alert(1)>`, skill: "rewriting" })),
];
const prompts = file("prompts.jsonl");
writeFileSync(prompts, rows.map((row) => JSON.stringify(row)).join("\n"));
const template = file("chat.jinja");
writeFileSync(template, "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:");
const models = ["tiny", "llama3"].map((name) => join(folder, `${name}.gguf`));
const words = (name, port = 0) => ["arena", "serve", "--models", models.join(","), "--prompts", prompts, "--db", file(`${name}.sqlite`), "--taxonomy", "use-cases", "-n", "24", "-t", "1", "--chat-template", template, "--together", "--port", String(port)];
const server = await launch(words("votes"));
const options = { ready: ".masthead" };

/** Says who judges, and waits for a pair. */
async function begin(page, name) {
  await page.getByRole("textbox", { name: "A short name" }).fill(name);
  await page.getByRole("button", { name: "Begin" }).click();
  await page.waitForSelector(".sides", { timeout: 60_000 });
}

const state = (page) => page.locator(".progress").innerText();
const votes = (page, n) => until(async () => (await state(page)).startsWith(`${n} vote`), `${n} votes`);

await check("a name, two answers, a vote by mouse", server, async (page) => {
  must(await page.getByRole("heading", { name: "Who judges?" }).isVisible(), "who");
  await picture(page, "arena-begin");
  await begin(page, "ann");
  await until(async () => !(await state(page)).includes("being made") || (await page.reload(), await page.waitForSelector(".sides")), "all answers", 60);
  const keep = page.getByRole("button", { name: "Keep vote" });
  must(await keep.isDisabled(), "nothing to keep yet");
  await page.getByRole("radio", { name: "A is better" }).click();
  must((await page.locator(".side.better").getAttribute("aria-label")) === "Answer A", "A is marked");
  // The chat's styles are there too: none of them hides what is the arena's.
  for (const part of [".masthead", ".deeds"]) {
    const box = await page.locator(part).boundingBox();
    const opacity = await page.locator(part).evaluate((node) => getComputedStyle(node).opacity);
    must(box.height > 24 && box.width > 600 && opacity === "1", `${part} is seen`);
  }
  await picture(page, "arena-vote");
  await keep.click();
  await votes(page, 1);
  must(!(await page.locator("input:checked").count()), "a fresh scale");
  must(!/tiny|llama/.test(await page.content()), "no name of a model");
}, options);

await check("the keyboard votes, passes, edits, and goes on", server, async (page) => {
  await begin(page, "bob");
  await page.keyboard.press("6");
  must((await page.locator(".side.better").getAttribute("aria-label")) === "Answer B", "B is marked");
  await page.keyboard.press("4");
  must(await page.getByRole("button", { name: "Edit the better answer" }).isDisabled(), "of equals none is better");
  await page.keyboard.press("Enter");
  await votes(page, 1);
  await page.keyboard.press("0");
  await votes(page, 2);
  await page.keyboard.press("1");
  await page.keyboard.press("e");
  const box = page.getByRole("textbox", { name: "Answer A, better still" });
  must((await box.inputValue()).length > 0, "the answer stands there");
  await box.fill("A better answer.");
  await page.keyboard.press("Escape");
  await page.keyboard.press("m");
  await page.getByRole("textbox", { name: "What you say next, to answer A" }).fill("And then?");
  await picture(page, "arena-edit");
  await page.keyboard.press("Control+Enter");
  await votes(page, 3);
  // Other pairs come until both models have answered; none of them is better.
  await until(async () => {
    if ((await page.locator(".before").innerText().catch(() => "")).includes("And then?")) return true;
    await page.keyboard.press("4");
    await page.keyboard.press("Enter");
    return false;
  }, "the dialogue goes on", 60);
  must((await page.locator(".before").innerText()).includes("A better answer."), "behind what was edited");
  await picture(page, "arena-follow");
}, options);

await check("what models and people say does nothing", server, async (page) => {
  await begin(page, "eve");
  for (let i = 0; i < 6; i++) {
    for (const part of ["main script", "main iframe", "main img[src=x]", "main [onerror]"]) must(!(await page.locator(part).count()), part);
    await page.keyboard.press("3");
    await page.keyboard.press("Enter");
    await votes(page, i + 1);
  }
}, options);

await check("a vote that is not kept stays on the page until it is", await launch(words("kept")), async (page) => {
  await begin(page, "ann");
  await page.route("**/arena/vote", (route) => route.abort());
  await page.keyboard.press("2");
  await page.keyboard.press("Enter");
  await page.getByText("Not kept yet: the server does not answer. Keep it again when it does.").waitFor();
  must(await page.getByRole("radio", { name: "A is better" }).isChecked(), "the vote stands");
  await page.unroute("**/arena/vote");
  await page.keyboard.press("Enter");
  await votes(page, 1);
}, options);

await check("a key that is held votes once, and a pair that was voted on elsewhere is passed", await launch(words("held")), async (page) => {
  await begin(page, "ann");
  await page.keyboard.press("4");
  await page.keyboard.down("Enter");
  await votes(page, 1);
  await page.waitForSelector(".sides");
  await page.keyboard.down("2"); // Enter is still down
  await page.keyboard.up("2");
  await page.keyboard.down("Enter"); // the system's repeat
  await page.waitForTimeout(300);
  must((await state(page)).startsWith("1 vote "), "one vote");
  await page.keyboard.up("Enter");
  const body = await page.evaluate(async () => (await fetch("/arena/next", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ judge: "ann" }) })).json());
  await page.evaluate((show) => fetch("/arena/vote", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ judge: "ann", show, grade: -3, seconds: 1 }) }), body.pair.show);
  await page.keyboard.press("Enter");
  await votes(page, 2);
  must(!(await page.getByText("Not kept").count()), "it goes on");
  must(!(await page.locator("input:checked").count()), "a fresh scale");
}, options);

await check("who changes the name is left alone while answers are made", await launch(words("named")), async (page) => {
  await page.route("**/arena/next", (route) => route.fulfill({ json: { votes: 0, left: 0, unmade: 3, pair: null } }));
  await page.getByRole("textbox", { name: "A short name" }).fill("ann");
  await page.getByRole("button", { name: "Begin" }).click();
  await page.getByRole("heading", { name: "Answers are being made" }).waitFor();
  await page.getByRole("button", { name: "You are ann" }).click();
  await page.waitForTimeout(2000);
  must(await page.getByRole("heading", { name: "Who judges?" }).isVisible(), "the question stays");
}, options);

const mortal = await launch(words("mortal"));
await check("a server that was killed has the votes", mortal, async (page) => {
  await begin(page, "ann");
  for (let i = 0; i < 3; i++) {
    await page.keyboard.press("5");
    await page.keyboard.press("Enter");
    await votes(page, i + 1);
  }
  mortal.kill();
  await until(() => fetch(mortal.url).then(() => false, () => true), "it is gone");
  await page.keyboard.press("5");
  await page.keyboard.press("Enter");
  await page.getByText("Not kept").waitFor();
  await launch(words("mortal", mortal.port));
  await page.keyboard.press("Enter");
  await votes(page, 4);
}, options);

for (const scheme of ["light", "dark"])
  for (const [name, viewport] of [["wide", { width: 1280, height: 800 }], ["narrow", { width: 390, height: 844 }]])
    await check(`nothing is inaccessible: ${scheme}, ${name}`, server, async (page) => {
      let found = await findings(page);
      must(!found.length, found.join(" | "));
      await begin(page, `${scheme} ${name}`);
      await page.getByRole("radio", { name: "B is slightly better" }).click();
      await page.getByRole("button", { name: "Edit the better answer" }).click();
      await picture(page, `arena-${scheme}-${name}`);
      found = await findings(page);
      must(!found.length, found.join(" | "));
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      must(wide <= 0, `${wide} pixels too wide`);
    }, { ...options, colorScheme: scheme, viewport });

await check("the end says thanks", server, async (page) => {
  await begin(page, "frank");
  await until(async () => {
    if (await page.getByRole("heading", { name: "Nothing is left to judge" }).count()) return true;
    await page.keyboard.press("4");
    await page.keyboard.press("Enter");
    return false;
  }, "the end", 60);
}, options);

await finish();
