// The answers are a list, as long as there are pairs done: the next pair is the first without one, and going back takes
// the last one off. They are kept where the browser lets a page do so, and saved as a file on request.

const sheet = document.getElementById("sheet").dataset.sheet, PLACE = `cfexplain-sheet-${sheet}`;
const pairs = [...document.querySelectorAll(".pair")], end = document.getElementById("end");
const KEYS = { ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right" };
let state = restored() ?? fresh(), shownAt = 0;

function fresh() {
  const numbers = crypto.getRandomValues(new Uint32Array(2));
  return { sheet, reader: [...numbers].map((number) => number.toString(16).padStart(8, "0")).join(""), answers: [] };
}

/** What this browser kept of this sheet, or null. */
function restored() {
  try {
    const { reader, answers } = JSON.parse(localStorage.getItem(PLACE));
    const isWhole = typeof reader === "string" && answers.length <= pairs.length && answers.every(({ pair, side, seconds },
      number) => pair === number && ["left", "right"].includes(side) && Number.isFinite(seconds));
    return isWhole ? { sheet, reader, answers } : null;
  } catch {
    return null;
  }
}

function keep() {
  let isKept = true;
  try {
    localStorage.setItem(PLACE, JSON.stringify(state));
  } catch {
    isKept = false;
  }
  document.getElementById("kept").textContent =
    isKept ? "" : "This browser keeps nothing for this page: save your answers before you close it.";
}

function show() {
  const done = state.answers.length, now = pairs[done] ?? end;
  [...pairs, end].forEach((section) => { section.hidden = section !== now; });
  document.getElementById("progress").textContent =
    done < pairs.length ? `Pair ${done + 1} of ${pairs.length}` : `All ${pairs.length} pairs are answered`;
  document.getElementById("bar").value = done;
  document.getElementById("back").disabled = document.getElementById("save").disabled = done === 0;
  if (shownAt > 0) now.querySelector("h2").focus(); // not as the page opens: what comes before it is read first
  shownAt = performance.now();
}

function answer(side) {
  if (state.answers.length === pairs.length) return;
  const seconds = Math.round(performance.now() - shownAt) / 1000;
  state.answers.push({ pair: state.answers.length, side, seconds });
  keep();
  show();
}

function back() {
  state.answers.pop();
  keep();
  show();
}

function save() {
  const url = URL.createObjectURL(new Blob([JSON.stringify(state, null, 1)], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = `answers-${sheet}-${state.reader}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

function anew() {
  if (state.answers.length > 0 && !confirm("Forget the answers on this page? Save them first.")) return;
  state = fresh();
  keep();
  show();
}

document.querySelectorAll(".side").forEach((button) => button.addEventListener("click", () => answer(button.value)));
document.getElementById("back").addEventListener("click", back);
document.getElementById("save").addEventListener("click", save);
document.getElementById("anew").addEventListener("click", anew);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  if (event.key === "Backspace") back();
  else if (Object.hasOwn(KEYS, event.key)) answer(KEYS[event.key]);
  else return;
  event.preventDefault();
});
show();
