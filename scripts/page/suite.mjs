// The suite of scripts/page.sh. What a model says is random here, so words that matter are brought in by import, and
// what only a clever model does is scripted between the browser and the server.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { check, findings, finish, folder, model, must, open, picture, plain, require, serve, until } from "./bench.mjs";
import { ARABIC, CALLS, HOSTILE, MARKDOWN, TOOLS, stream } from "./texts.mjs";

const tiny = await serve("tiny", join(folder, "tiny.gguf"), ["-c", "1024"]);
const neat = await serve("neat", join(folder, "tiny.gguf"), ["-c", "1024"]);
const caller = await serve("caller", join(folder, "llama3.gguf"), ["-c", "1024", "--chat-template", "llama3.1-hf"]);
const handy = await serve("handy", join(folder, "llama31.gguf"), ["-c", "4096", "--chat-template", "llama3.1-hf", "--tools", "calc,python", "--approve", "calc=ask"]);
const locked = await serve("locked", join(folder, "tiny.gguf"), ["-c", "512", "--api-key", "open sesame"]);

const words = (page) => page.getByRole("textbox", { name: "Message", exact: true });
const answers = (page) => page.locator(".message.answer:not(.live)");

/** Says something and waits for the answer's end. */
async function say(page, text) {
  const before = await page.locator(".message.user").count();
  await words(page).fill(text);
  await words(page).press("Enter");
  await until(async () => (await page.locator(".message.user").count()) > before || (await page.locator(".toast").count()), "it is said");
  await until(async () => !(await page.locator(".message.live").count()), "the answer ends", 60);
}

/** Makes a conversation by import, and opens it. */
async function bring(page, row) {
  const id = await page.evaluate(async (row) => {
    const made = await fetch("/ui/api/chats", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(row) });
    return (await made.json()).id;
  }, row);
  await page.evaluate((id) => (location.hash = `#/chat/${id}`), id);
  await page.waitForSelector(".message.answer");
  await page.reload();
  await page.waitForSelector(".message.answer");
  return id;
}

const talk = (user, assistant) => ({ messages: [{ role: "user", content: user }, { role: "assistant", content: assistant }] });

/** Short answers. */
async function brief(page, more = {}) {
  await page.evaluate((settings) => localStorage.setItem("herd.settings", JSON.stringify(settings)), { max_tokens: 24, logit_bias: { 258: -100 }, ...more });
  await page.reload();
  await page.waitForSelector(".composer");
}

plain("what is vendored is what npm has", () => {
  const vendor = new URL("../../crates/serve/src/page/static/vendor/", import.meta.url);
  for (const [own, theirs] of [["marked.js", "marked/lib/marked.esm.js"], ["purify.js", "dompurify/dist/purify.es.mjs"], ["highlight.js", "@highlightjs/cdn-assets/es/highlight.min.js"], ["marked.LICENSE", "marked/LICENSE"], ["purify.LICENSE", "dompurify/LICENSE"], ["highlight.LICENSE", "@highlightjs/cdn-assets/LICENSE"]])
    must(readFileSync(new URL(own, vendor)).equals(readFileSync(join(folder, "node_modules", theirs))), `${own} differs from ${theirs}`);
});

await check("a question is answered, has a title, and is there after a reload", tiny, async (page) => {
  await brief(page);
  must(await page.getByRole("heading", { name: "What shall we talk about?" }).isVisible(), "a greeting");
  await say(page, "Tell me of herds");
  must((await page.locator(".usage").textContent()) === "24 tokens", "24 tokens");
  await until(async () => (await page.locator(".entry a[aria-current]").textContent()) === "Tell me of herds", "the list has it");
  must((await page.locator(".title").textContent()) === "Tell me of herds", "the title");
  const shown = await page.locator(".content").innerText();
  await page.reload();
  await page.waitForSelector(".message.answer");
  must((await page.locator(".content").innerText()) === shown, "the same answer");
});

await check("answers and questions have versions, and the branch that was looked at is remembered", tiny, async (page) => {
  await brief(page);
  await say(page, "One");
  const first = await page.locator(".content").innerText();
  await page.getByRole("button", { name: "Answer again" }).click();
  await until(async () => (await page.locator(".answer .branches span").innerText()) === "2/2", "two answers");
  await until(async () => !(await page.locator(".message.live").count()), "the answer ends");
  await page.getByRole("button", { name: "Version before" }).click();
  must((await page.locator(".content").innerText()) === first, "the first answer");
  await say(page, "Two");
  await page.locator(".message.user").last().hover();
  await page.locator(".message.user").last().getByRole("button", { name: "Edit" }).click();
  await page.getByRole("textbox", { name: "Edit the message" }).fill("Two, otherwise");
  await page.keyboard.press("Enter");
  await until(async () => (await page.locator(".user .branches span").last().innerText()) === "2/2", "two questions");
  await until(async () => !(await page.locator(".message.live").count()), "the answer ends");
  await page.locator(".message.user").last().getByRole("button", { name: "Version before" }).click();
  must((await page.locator(".words").last().innerText()) === "Two", "the first question");
  await page.waitForTimeout(200);
  await page.reload();
  await page.waitForSelector(".message.answer");
  must((await page.locator(".words").last().innerText()) === "Two", "the branch is remembered");
});

await check("the keyboard sends, begins lines, edits, searches and begins anew", tiny, async (page) => {
  await brief(page);
  await words(page).pressSequentially("a");
  await page.keyboard.press("Shift+Enter");
  await words(page).pressSequentially("b");
  must((await words(page).inputValue()) === "a\nb", "two lines");
  await page.keyboard.press("Enter");
  await until(async () => (await answers(page).count()) === 1, "an answer");
  await words(page).press("ArrowUp");
  must((await page.getByRole("textbox", { name: "Edit the message" }).inputValue()) === "a\nb", "the last message");
  await page.keyboard.press("Escape");
  await page.keyboard.press("Control+k");
  must(await page.getByRole("searchbox").evaluate((box) => box === document.activeElement), "the search has the focus");
  await page.keyboard.press("Control+Shift+O");
  await page.waitForSelector(".greeting");
  await page.keyboard.press("Control+,");
  await page.getByRole("heading", { name: "Settings of this chat" }).waitFor();
  await page.keyboard.press("Escape");
  await page.waitForSelector("dialog", { state: "detached" });
});

await check("Markdown is shown as it is meant, code is coloured and copied", neat, async (page) => {
  await bring(page, talk("How does a herd stay together?", MARKDOWN));
  for (const part of ["h2", "ol li", "blockquote", ".table td", ".code .hljs-keyword", "a[rel~=noopener]", "strong", "del"]) must(await page.locator(`.markdown ${part}`).count(), part);
  await page.getByRole("button", { name: "Copy", exact: true }).first().click();
  must((await page.evaluate(() => navigator.clipboard.readText())).startsWith("fn main()"), "the code");
  await page.locator(".scroll").evaluate((scroll) => (scroll.scrollTop = 0));
  await picture(page, "page");
});

await check("nothing that a model says does anything", tiny, async (page) => {
  await bring(page, talk("<img src=x onerror=alert(1)>", HOSTILE));
  must((await page.locator(".words").innerText()).startsWith("<img"), "a person's words are words");
  for (const part of ["script", "iframe", "style", "form", "input", "button:not(.quiet)", "[onerror]", "[onclick]", "[style]", "[id]", "a[href^='javascript']", "svg script", "img[src^=http]"]) must(!(await page.locator(`.markdown ${part}`).count()), part);
  must((await page.evaluate(() => globalThis.harmed)) === undefined, "nothing ran");
  // What the policy forbids is reported while DOMPurify reads it, in a document that is never shown.
  page.complaints = page.complaints.filter((complaint) => !complaint.includes("Content Security Policy"));
});

await check("a call waits for its result, and the answer goes on", caller, async (page) => {
  await page.evaluate((settings) => localStorage.setItem("herd.settings", JSON.stringify(settings)), { max_tokens: 120, seed: 1, tools: TOOLS, tool_choice: "required" });
  await page.reload();
  await words(page).fill("What is the weather?");
  await words(page).press("Enter");
  await page.getByText("waits for you").waitFor();
  await page.getByRole("textbox", { name: "Result of weather" }).fill("18 degrees");
  await picture(page, "decision");
  const found = await findings(page);
  must(!found.length, found.join(" | "));
  await page.reload(); // who leaves finds it again
  await page.getByRole("textbox", { name: "Result of weather" }).fill("18 degrees");
  await page.getByRole("button", { name: "Approve" }).click();
  await page.locator(".state.good").waitFor();
  await until(async () => !(await page.locator(".message.live").count()), "the answer ends");
  must(await page.getByText("18 degrees").count(), "the result");
});

/** Settings by which a tool of the server's is called with this argument. */
function forced(name, argument, value) {
  const parameters = { type: "object", properties: { [argument]: { enum: [value] } }, required: [argument], additionalProperties: false };
  return { max_tokens: 200, seed: 1, logit_bias: { 259: 8 }, tools: [{ type: "function", function: { name, parameters } }], tool_choice: { type: "function", function: { name } } };
}

await check("the server runs its tools: approved, denied, switched off, with files to save", handy, async (page) => {
  await brief(page, forced("calc", "query", "2^100"));
  await words(page).fill("How much?");
  await words(page).press("Enter");
  await page.getByRole("button", { name: "Approve" }).click();
  await page.locator(".call .good").waitFor();
  must((await page.locator(".call pre").last().textContent()) === "1267650600228229401496703205376", "the result");
  await until(async () => !(await page.locator(".message.live").count()), "the answer ends", 60);
  const found = await findings(page);
  must(!found.length, found.join(" | "));
  await page.reload();
  await page.locator(".call .good").waitFor();
  await brief(page, forced("python", "code", "open('herd.bin', 'wb').write(open('cow.png', 'rb').read())"));
  await page.keyboard.press("Control+Shift+O");
  await page.locator(".composer input[type=file]").setInputFiles([{ name: "cow.png", mimeType: "image/png", buffer: Buffer.from([137, 80, 78, 71, 0, 255]) }]);
  await page.locator(".composer .chip").getByText("cow.png").waitFor();
  await say(page, "Copy it");
  await page.locator(".call summary").click();
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: "herd.bin" }).click()]);
  must(readFileSync(await download.path()).equals(Buffer.from([137, 80, 78, 71, 0, 255])), "the bytes");
  await picture(page, "server-tools");
  await page.getByRole("button", { name: "Settings of this chat" }).click();
  await page.getByRole("checkbox", { name: "python" }).uncheck();
  const inSettings = await findings(page);
  must(!inSettings.length, inSettings.join(" | "));
  await page.keyboard.press("Escape");
  await page.waitForTimeout(400);
  const kept = await page.evaluate(async () => (await fetch(`/ui/api/chats/${location.hash.split("/").pop()}`)).json());
  must(kept.settings.tools_off?.[0] === "python", JSON.stringify(kept.settings));
});

await check("Escape and the stop button end an answer", caller, async (page) => {
  await page.evaluate((settings) => localStorage.setItem("herd.settings", JSON.stringify(settings)), { tools: TOOLS, tool_choice: "required" });
  await page.reload();
  for (const stop of [() => page.keyboard.press("Escape"), () => page.getByRole("button", { name: "Stop" }).click()]) {
    await page.evaluate(() => (location.hash = "#/"));
    await page.waitForSelector(".greeting");
    await words(page).fill("Call");
    await words(page).press("Enter");
    await page.getByText("waits for you").waitFor();
    await stop();
    await page.getByText("Stopped.").waitFor();
  }
});

await check("calls, results and files are shown step by step", neat, async (page) => {
  await brief(page);
  const decided = [];
  await page.route("**/answers", (route) => route.fulfill({ contentType: "text/event-stream", body: stream(CALLS) }));
  await page.route("**/calls", (route) => {
    decided.push(route.request().postDataJSON());
    return route.fulfill({ json: {} });
  });
  await say(page, "How far is it to the moon, in marathons?");
  must((await page.locator(".call").count()) === 3, "three cards");
  must((await page.locator(".state.bad").count()) === 1, "one failed");
  await page.locator(".call summary").nth(1).click();
  must(await page.getByRole("link", { name: "distance.csv" }).isVisible(), "a file");
  await page.locator(".entry .icon-button").first().click();
  await page.getByRole("menuitem", { name: "Rename" }).click();
  await page.getByLabel("Title", { exact: true }).fill("To the moon");
  await page.keyboard.press("Enter");
  await page.getByRole("link", { name: "To the moon" }).waitFor();
  await page.mouse.move(700, 780);
  await page.locator(".scroll").evaluate((scroll) => (scroll.scrollTop = 0));
  await picture(page, "page-tools");
  must(!decided.length, "nothing was asked");
});

await check("each token shows how likely it was, by pointer and by keys", tiny, async (page) => {
  await brief(page);
  await page.getByRole("button", { name: "Show how likely each token was" }).click();
  await say(page, "Any");
  await page.locator(".token").nth(3).hover();
  must((await page.locator(".tip tr").count()) >= 5, "five likeliest");
  await page.locator(".tokens").focus();
  await page.keyboard.press("ArrowRight");
  must(await page.locator(".tip").isVisible(), "the tip by keys");
  await picture(page, "tokens");
  await page.getByRole("button", { name: "Show how likely each token was" }).click();
  await page.locator(".markdown").waitFor();
});

await check("settings hold for their chat, and a wrong one is marked", tiny, async (page) => {
  await brief(page);
  await say(page, "Before");
  await page.getByRole("button", { name: "Settings of this chat" }).click();
  await page.getByLabel("System message").fill("Be a pirate.");
  await page.getByLabel("Temperature").fill("0.3");
  await page.getByLabel("Top-p").fill("7");
  must((await page.getByLabel("Top-p").getAttribute("aria-invalid")) === "true", "7 is wrong");
  await page.getByLabel("Top-p").fill("0.9");
  await picture(page, "settings");
  await page.waitForTimeout(600);
  await page.reload();
  const id = new URL(page.url()).hash.split("/").pop();
  const kept = await page.evaluate(async (id) => (await fetch(`/ui/api/chats/${id}`)).json(), id);
  must(kept.settings.system === "Be a pirate." && kept.settings.temperature === 0.3 && kept.settings.top_p === 0.9, JSON.stringify(kept.settings));
});

await check("text files go into the prompt, and others are refused with a reason", tiny, async (page) => {
  await brief(page);
  const picker = page.locator(".composer input[type=file]");
  await picker.setInputFiles([{ name: "notes.md", mimeType: "text/markdown", buffer: Buffer.from("# Notes\nThe cow is called Berta.") }, { name: "cow.png", mimeType: "image/png", buffer: Buffer.from([137, 80, 78, 71, 0, 255]) }]);
  await page.getByText("cow.png is no text in UTF-8").waitFor();
  must((await page.locator(".composer .chip").count()) === 1, "one chip");
  await say(page, "Who is the cow?");
  await page.locator(".bubble .chip").getByText("notes.md").waitFor();
  await until(async () => (await answers(page).count()) === 1, "the answer ends");
  const id = new URL(page.url()).hash.split("/").pop();
  const row = await page.evaluate(async (id) => (await fetch(`/ui/api/chats/${id}/export`)).json(), id);
  must(row.messages[0].content.includes("called Berta") && row.messages[0].content.endsWith("Who is the cow?"), row.messages[0].content);
});

await check("chats are searched, renamed, saved and deleted", tiny, async (page) => {
  await bring(page, talk("Where is the xylophone?", "In the attic."));
  await page.getByRole("searchbox").fill("ATTIC");
  await until(async () => (await page.locator(".entry").count()) === 1, "one is found");
  await page.locator(".entry .icon-button").click();
  await page.getByRole("menuitem", { name: "Rename" }).click();
  await page.getByLabel("Title").fill("Music");
  await page.keyboard.press("Enter");
  await page.getByRole("link", { name: "Music" }).waitFor();
  await page.locator(".entry .icon-button").click();
  const saved = page.waitForEvent("download");
  await page.getByRole("menuitem", { name: "Save as JSONL" }).click();
  must((await saved).suggestedFilename().endsWith(".jsonl"), "a download");
  await page.locator(".entry .icon-button").click();
  await page.getByRole("menuitem", { name: "Delete" }).click();
  await page.getByRole("button", { name: "Delete" }).click();
  await page.getByText("Nothing found.").waitFor();
  await page.waitForSelector(".greeting");
});

await check("what is written from the right is shown so, and the page speaks Arabic", tiny, async (page) => {
  await bring(page, talk("مرحبا، كيف حالك؟", ARABIC));
  const direction = (part) => page.locator(part).first().evaluate((element) => getComputedStyle(element).direction);
  must((await direction(".words")) === "rtl" && (await direction(".markdown p")) === "rtl", "words");
  must((await direction(".code pre")) === "ltr", "code stays");
  await page.getByRole("button", { name: "Settings of this chat" }).click();
  await page.getByLabel("Language of the page").selectOption("ar");
  await page.waitForSelector("html[dir=rtl] .message.answer");
  await picture(page, "right-to-left");
  const found = await findings(page);
  must(!found.length, found.join(" | "));
});

await check("a narrow screen has all of it", tiny, async (page) => {
  await bring(page, talk("Show me", MARKDOWN));
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  must(wide <= 0, `${wide} pixels too wide`);
  await picture(page, "mobile");
  await page.getByRole("button", { name: "Chats", exact: true }).click();
  await page.getByRole("link", { name: "New chat" }).waitFor();
  await picture(page, "mobile-list");
  const found = await findings(page);
  must(!found.length, found.join(" | "));
  await page.keyboard.press("Escape");
  await page.locator(".sidebar").waitFor({ state: "hidden" });
}, { viewport: { width: 390, height: 780 }, hasTouch: true, isMobile: true });

await check("a key is asked for, once for each that is wrong", locked, async (page) => {
  await page.getByRole("heading", { name: "This server wants a key" }).waitFor();
  await page.getByLabel("Key", { exact: true }).fill("wrong");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "The server does not know this key" }).waitFor();
  await picture(page, "key");
  await page.getByLabel("Key", { exact: true }).fill("open sesame");
  await page.keyboard.press("Enter");
  await page.getByText("No chats yet.").waitFor();
  await say(page, "Hello");
  must((await answers(page).count()) === 1, "an answer");
});

await check("a refusal says what to do, and what was written is given back", tiny, async (page) => {
  const long = "word ".repeat(400);
  await words(page).fill(long);
  await words(page).press("Enter");
  await page.getByText("Change it in the settings or the message.").waitFor();
  must((await words(page).inputValue()) === long, "the words are back");
  must(await page.locator(".greeting").isVisible(), "no empty chat is left");
});

await check("the load is shown in figures and lines", tiny, async (page) => {
  await page.evaluate(() => {
    const ask = (prompt) => fetch("/v1/completions", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ model: "tiny", prompt, max_tokens: 900, ignore_eos: true }) });
    const asker = async (_, i) => {
      for (let n = 0; !globalThis.enough; n++) await ask(`The ${i % 7}th herd of ${n}`);
    };
    globalThis.askers = Promise.all(Array.from({ length: 40 }, asker));
  });
  await page.getByRole("link", { name: "Load", exact: true }).click();
  await until(async () => Number((await page.locator(".value").nth(2).textContent()).replace(/\D/g, "")) > 0, "tokens a second");
  await page.waitForTimeout(20_000);
  await picture(page, "load");
  await page.evaluate(() => (globalThis.enough = true));
  const found = await findings(page);
  must(!found.length, found.join(" | "));
});

for (const colorScheme of ["light", "dark"])
  await check(`axe finds nothing serious (${colorScheme})`, tiny, async (page) => {
    const found = [];
    const look = async (view) => found.push(...(await findings(page)).map((one) => `${view}: ${one}`));
    await look("greeting");
    await picture(page, `greeting-${colorScheme}`);
    await bring(page, talk("Show me", MARKDOWN));
    await look("chat");
    await picture(page, `desktop-${colorScheme}`);
    await page.getByRole("button", { name: "Settings of this chat" }).click();
    await look("settings");
    await picture(page, `settings-${colorScheme}`);
    await page.keyboard.press("Escape");
    await page.locator(".entry .icon-button").first().click();
    await look("menu");
    await page.keyboard.press("Escape");
    await page.getByRole("button", { name: "Show how likely each token was" }).click();
    await brief(page);
    await page.evaluate(() => (location.hash = "#/"));
    await page.waitForSelector(".greeting");
    await say(page, "Tokens");
    await look("tokens");
    await page.route("**/answers", (route) => route.fulfill({ contentType: "text/event-stream", body: stream(CALLS) }));
    await words(page).fill("Call");
    await words(page).press("Enter");
    await page.waitForSelector(".call");
    await page.locator(".call summary").first().click();
    await look("calls");
    await page.unroute("**/answers");
    await page.evaluate(() => (location.hash = "#/load"));
    await page.waitForTimeout(1500);
    await look("load");
    await picture(page, `load-${colorScheme}`);
    must(!found.length, found.join(" | "));
  }, { colorScheme });

await check("the colours follow the system until one chooses", tiny, async (page) => {
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await page.emulateMedia({ colorScheme: "dark" });
  const dark = await ground();
  must(light !== dark, "dark differs");
  await page.getByRole("button", { name: "Colours: As the system" }).click();
  must((await ground()) === light, "light by choice");
  await page.reload();
  await page.waitForSelector(".composer");
  must((await ground()) === light, "the choice is remembered");
});

await check("a killed server is waited for, and what it was writing is shown as interrupted", caller, async (page) => {
  const mortal = await serve("mortal", join(folder, "llama3.gguf"), ["-c", "1024", "--chat-template", "llama3.1-hf"]);
  const own = await open(mortal.url);
  await own.evaluate((settings) => localStorage.setItem("herd.settings", JSON.stringify(settings)), { tools: TOOLS, tool_choice: "required" });
  await own.reload();
  await words(own).fill("Remember me");
  await words(own).press("Enter");
  await own.getByText("waits for you").waitFor();
  await own.waitForTimeout(1500);
  mortal.kill();
  await own.getByText("The server cannot be reached.").waitFor();
  const again = await serve("mortal", join(folder, "llama3.gguf"), ["-c", "1024", "--chat-template", "llama3.1-hf"], mortal.port);
  await own.getByText("The server ended while it wrote this.").waitFor();
  must((await own.locator(".call").count()) === 1, "the call is there");
  await own.context().close();
  again.kill();
  await page.close();
});

if (model) {
  const real = await serve("real", model, ["-c", "2048"]);
  await check("a real model answers", real, async (page) => {
    await page.evaluate(() => localStorage.setItem("herd.settings", JSON.stringify({ max_tokens: 200, seed: 1, temperature: 0.2 })));
    await page.reload();
    await say(page, "Write a short Rust function that adds two numbers, and explain it.");
    must((await page.locator(".content").innerText()).length > 40, "an answer");
    await picture(page, "real");
  });
}

await finish();
