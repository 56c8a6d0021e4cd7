// What sheet.js sees of a browser, and no more. Stdin: JSON of the page's parts and of what a reader does.
// Stdout: what the reader saw after each step, and the file that was saved last.

const { readFileSync } = require("node:fs");
const { script, sheet, ids, values, numPairs, stored, keepsNothing, steps } = JSON.parse(readFileSync(0, "utf8"));

const element = (values = {}) => ({
  hidden: true, listeners: {}, addEventListener(name, call) { this.listeners[name] = call; },
  querySelector() { return { focus() {} }; }, ...values,
});
const named = Object.fromEntries(ids.map((id) => [id, element()]));
named.sheet.dataset = { sheet };
const pairs = Array.from({ length: numPairs }, () => element());
const sides = values.map((value) => element({ value }));
let saved = null, link = null;
globalThis.document = element({
  getElementById: (id) => named[id] ?? null,
  querySelectorAll: (selector) => ({ ".pair": pairs, ".side": sides }[selector]),
  createElement: () => link = { click() {} },
});
const storage = new Map(stored === null ? [] : [[`cfexplain-sheet-${sheet}`, stored]]);
const refuse = () => { throw new Error("denied"); };
globalThis.localStorage = keepsNothing ? { getItem: refuse, setItem: refuse }
  : { getItem: (name) => storage.get(name) ?? null, setItem: (name, text) => storage.set(name, text) };
globalThis.confirm = () => true;
URL.createObjectURL = (blob) => { saved = blob; return "blob:x"; };
globalThis.setTimeout = () => {};

(0, eval)(script);
const seen = [];
(async () => {
  for (const step of [null, ...steps]) {
    let prevented = false;
    if (step?.key) document.listeners.keydown({ ...step, preventDefault() { prevented = true; } });
    if (step?.click) named[step.click].listeners.click();
    if (step?.side !== undefined) sides[step.side].listeners.click();
    const shown = [...pairs, named.end].map((section) => section.hidden).indexOf(false);
    const kept = named.kept.textContent ?? "";
    seen.push({ shown, prevented, progress: named.progress.textContent, canSave: !named.save.disabled, kept });
  }
  const file = saved && { name: link.download, text: await saved.text() };
  console.log(JSON.stringify({ seen, file, stored: [...storage.values()][0] ?? null }));
})();
