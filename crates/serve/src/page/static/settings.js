// What holds for a conversation: the system's message, how tokens are chosen, functions.

import { fill, h } from "./dom.js";
import { iconButton } from "./message.js";
import { LANGUAGES, language, setLanguage, t } from "./words.js";

/** Fields with their bounds, by the names of `/v1/chat/completions`. */
const NUMBERS = [
  ["temperature", 0, 5, 0.05],
  ["top_p", 0, 1, 0.01],
  ["top_k", 0, 100_000, 1],
  ["min_p", 0, 1, 0.01],
  ["repetition_penalty", 0.1, 10, 0.05],
  ["max_tokens", 1, 16_777_216, 1],
  ["seed", -9007199254740991, 9007199254740991, 1],
];

/**
 * A drawer with the settings. `changed` gets all of them after each change that is right.
 * @param {{ settings: any, changed: (settings: any) => void, asDefault: (settings: any) => void,
 *   tools: boolean, serverTools: { name: string, description: string, rule: string }[] }} given
 */
export function openSettings({ settings, changed, asDefault, tools, serverTools }) {
  const own = { ...settings };
  const put = (name, value) => {
    if (value === undefined) delete own[name];
    else own[name] = value;
    changed({ ...own });
  };
  const close = iconButton("close", t("close"), () => dialog.close());
  const dialog = h("dialog.drawer", { "aria-labelledby": "settings-title" },
    h("header", {}, h("h2", { id: "settings-title" }, t("settings")), close),
    h("div.fields", {}, systemField(own, put), h("p.muted", {}, t("settingsHint")),
      h("div.grid", {}, ...NUMBERS.map((field) => numberField(field, own, put))),
      serverTools.length ? switchesField(serverTools, own, put) : null,
      tools ? toolsField(own, put) : h("p.muted", {}, t("noTools")),
      languageField(),
      h("div.row", {}, h("button", { type: "button", onclick: () => asDefault({ ...own }) }, t("asDefault")))));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function systemField(own, put) {
  const area = h("textarea", { id: "set-system", rows: 5, dir: "auto", placeholder: t("systemHint") });
  area.value = own.system ?? "";
  area.addEventListener("input", () => put("system", area.value || undefined));
  return h("div.field", {}, h("label", { for: "set-system" }, t("system")), area);
}

function numberField([name, min, max, step], own, put) {
  const input = h("input", { id: `set-${name}`, type: "number", min, max, step: step < 1 ? "any" : 1, inputmode: "decimal", placeholder: t("byModel"), "aria-describedby": `set-${name}-about` });
  if (own[name] !== undefined) input.value = own[name];
  input.addEventListener("input", () => {
    const right = input.checkValidity();
    input.setAttribute("aria-invalid", String(!right));
    if (right) put(name, input.value === "" ? undefined : Number(input.value));
  });
  return h("div.field", {}, h("label", { for: `set-${name}` }, t(name)), input, h("p.muted", { id: `set-${name}-about` }, t(`${name}_about`)));
}

/** A switch for each tool that the server runs. */
function switchesField(list, own, put) {
  const off = new Set(own.tools_off ?? []);
  const one = ({ name, description, rule }) => {
    const box = h("input", { type: "checkbox", checked: !off.has(name), "aria-describedby": `tool-${name}-about` });
    box.addEventListener("change", () => {
      if (box.checked) off.delete(name);
      else off.add(name);
      put("tools_off", off.size ? [...off] : undefined);
    });
    const about = rule === "always" ? description : `${description} (${t(rule === "ask" ? "ruleAsk" : "ruleNever")})`;
    return h("div.switch", {}, h("label", {}, box, h("code", {}, name)), h("p.muted", { id: `tool-${name}-about`, dir: "auto" }, about));
  };
  return h("fieldset.field", {}, h("legend", {}, t("serverTools")), h("p.muted", {}, t("serverToolsAbout")), ...list.map(one));
}

function toolsField(own, put) {
  const area = h("textarea.mono", { id: "set-tools", rows: 6, dir: "ltr", spellcheck: "false", "aria-describedby": "set-tools-about set-tools-wrong", placeholder: '[{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}]' });
  const wrong = h("p.warn", { id: "set-tools-wrong", role: "status" });
  if (own.tools) area.value = JSON.stringify(own.tools, null, 2);
  area.addEventListener("input", () => {
    fill(wrong);
    if (!area.value.trim()) return put("tools", undefined);
    try {
      const tools = JSON.parse(area.value);
      if (!Array.isArray(tools)) throw new Error(t("toolsNoList"));
      put("tools", tools);
    } catch (error) {
      fill(wrong, String(error.message));
    }
  });
  return h("div.field", {}, h("label", { for: "set-tools" }, t("functions")), area, h("p.muted", { id: "set-tools-about" }, t("functionsAbout")), wrong);
}

function languageField() {
  const options = Object.entries(LANGUAGES).map(([code, name]) => h("option", { value: code, lang: code, selected: code === language() }, name));
  const select = h("select", { id: "set-language" }, ...options);
  select.addEventListener("change", () => setLanguage(select.value));
  return h("div.field", {}, h("label", { for: "set-language" }, t("language")), select);
}
