// The list of images with its filters, and which of list and card is shown: the address says it (#image=name).

const PER_PAGE = 48, THUMBNAIL = 60;
const items = [...document.querySelectorAll("script.item")].map((element, order) => (
  { ...JSON.parse(element.textContent), order, pictures: element.nextElementSibling }));
const byName = new Map(items.map((item) => [item.name, item]));
const overview = document.getElementById("overview"), card = document.getElementById("card");
const filters = document.getElementById("filters"), list = document.getElementById("entries");
const grouped = (number) => number.toLocaleString("en");
const collator = new Intl.Collator("en", { numeric: true });
const ORDERS = {
  given: (a, b) => a.order - b.order,
  highest: (a, b) => b.logit - a.logit,
  lowest: (a, b) => a.logit - b.logit,
  name: (a, b) => collator.compare(a.name, b.name),
};
const state = { found: items, first: 0, opened: null, scroll: 0 };
const waiting = new Map(); // canvas -> [item, names of its pictures], until it is drawn

async function drawThumbnail(canvas) {
  const found = waiting.get(canvas);
  if (found === undefined) return;
  waiting.delete(canvas);
  observer.unobserve(canvas);
  const sprite = await decoded(found.item);
  const width = canvas.height * (page.width / page.height);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = page.width >= THUMBNAIL;
  found.names.forEach((name, index) => {
    context.drawImage(small(sprite, name), index * (width + 8), 0, width, canvas.height);
  });
}

const observer = new IntersectionObserver(
  (seen) => seen.filter((one) => one.isIntersecting).forEach((one) => drawThumbnail(one.target)),
  { rootMargin: "300px" },
);

function option(value, text) {
  return make("option", { value }, text);
}

function fillFilters() {
  const classes = [...new Set(items.map((item) => item.class_name))].filter(Boolean).sort(collator.compare);
  filters.elements.class_name.append(option("", "all"), ...classes.map((name) => option(name, name)));
  filters.elements.class_name.closest("label").hidden = classes.length === 0;
  const concepts = Array.from({ length: page.concepts }, (_, number) => option(number, String(number)));
  filters.elements.concept.append(option("", "any"), ...concepts);
  const verdicts = Object.entries(page.words).map(([verdict, words]) => option(verdict, words.label));
  filters.elements.verdict.append(option("", "any"), ...verdicts);
  list.style.setProperty("--entry", `${(page.concepts + 1) * (THUMBNAIL + 4) + 24}px`);
}

function isWanted(item) {
  const { verdict, concept, class_name: className, name } = filters.elements;
  const judged = concept.value === "" ? item.concepts : [item.concepts[Number(concept.value)]];
  return (verdict.value === "" || judged.some((one) => one.verdict === verdict.value))
    && (className.value === "" || item.class_name === className.value)
    && item.name.toLowerCase().includes(name.value.trim().toLowerCase());
}

function search() {
  state.found = items.filter(isWanted).sort(ORDERS[filters.elements.order.value]);
  state.first = 0;
  showPage();
}

function showPage() {
  const { found, first } = state, last = Math.min(first + PER_PAGE, found.length);
  waiting.forEach((_, canvas) => observer.unobserve(canvas));
  waiting.clear();
  list.replaceChildren(...found.slice(first, last).map(entry));
  waiting.forEach((_, canvas) => observer.observe(canvas));
  const range = found.length > PER_PAGE ? `, ${first + 1} to ${last} shown` : "";
  document.getElementById("count").textContent = `${grouped(found.length)} of ${grouped(items.length)} images${range}`;
  document.getElementById("previous-page").disabled = first === 0;
  document.getElementById("next-page").disabled = last >= found.length;
  document.getElementById("pager").hidden = found.length <= PER_PAGE;
  // What is seen is drawn first, the rest of the page when there is time, so that none is missing on paper.
  const whenIdle = window.requestIdleCallback ?? setTimeout; // Safari lacks it
  whenIdle(() => [...waiting.keys()].forEach(drawThumbnail));
}

function entry(item) {
  const chosen = filters.elements.concept.value;
  const numbers = chosen === "" ? item.concepts.map((_, number) => number) : [Number(chosen)];
  const scale = 2, side = THUMBNAIL * scale, width = side * (page.width / page.height);
  const wide = (width + 8) * (numbers.length + 1) - 8;
  const canvas = make("canvas", { "aria-hidden": "true", height: side, width: wide });
  canvas.style.width = `${canvas.width / scale}px`;
  waiting.set(canvas, { item, names: ["image", ...numbers.map((number) => `${number} counterfactual`)] });
  const verdicts = numbers.map((number) =>
    make("span", {}, `concept ${number}: `, verdictBadge(item.concepts[number].verdict)));
  const told = [item.class_name, `score ${scoreWords(item.logit)}`].filter(Boolean).join(", ");
  const name = make("span", { class: "name" }, item.name);
  const link = make("a", { href: address(item) }, canvas, name, make("span", { class: "muted" }, told), verdicts);
  return make("li", {}, link);
}

const address = (item) => `#${new URLSearchParams({ image: item.name })}`;
const namedItem = () => byName.get(new URLSearchParams(location.hash.slice(1)).get("image"));

async function follow() {
  const item = namedItem(), before = state.opened;
  state.opened = item ?? null;
  if (item === undefined) return close(before);
  if (before === null) state.scroll = scrollY;
  await drawCard(card, item);
  if (state.opened !== item) return; // another one was opened while its pictures were decoded
  const place = state.found.indexOf(item);
  document.getElementById("place").textContent =
    place < 0 ? "not in the filtered list" : `${grouped(place + 1)} of ${grouped(state.found.length)}`;
  document.getElementById("previous-image").disabled = place <= 0;
  document.getElementById("next-image").disabled = place < 0 || place + 1 >= state.found.length;
  document.body.classList.add("with-card");
  document.getElementById("card-view").hidden = false;
  scrollTo(0, 0);
  document.getElementById("card-title").focus({ preventScroll: true });
  document.title = `${item.name}: ${page.title}`;
}

function close(before) {
  document.body.classList.remove("with-card");
  document.getElementById("card-view").hidden = true;
  document.title = page.title;
  if (before === null) return;
  const place = state.found.indexOf(before);
  if (place >= 0 && (place < state.first || place >= state.first + PER_PAGE)) {
    state.first = place - (place % PER_PAGE);
    showPage();
  }
  scrollTo(0, state.scroll);
  [...list.querySelectorAll("a")].find((link) => link.getAttribute("href") === address(before))?.focus();
}

function turn(by) {
  const place = state.found.indexOf(state.opened);
  const next = place < 0 ? undefined : state.found[place + by];
  if (next !== undefined) location.replace(address(next));
}

/** Arrow keys go through the list, and through the cards where they move no slider. */
function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("input, select")) {
    if (event.key !== "Escape" || state.opened === null) return;
  }
  const sideways = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (state.opened !== null) {
    if (event.key === "Escape") location.hash = "#images";
    else if (sideways !== undefined) turn(sideways);
    return;
  }
  const links = [...list.querySelectorAll("a")], index = links.indexOf(document.activeElement);
  if (index < 0) return;
  const perRow = links.filter((link) => link.offsetTop === links[0].offsetTop).length;
  const by = sideways ?? { ArrowUp: -perRow, ArrowDown: perRow }[event.key];
  if (by === undefined || links[index + by] === undefined) return;
  event.preventDefault();
  links[index + by].focus();
}

function turnPage(by) {
  state.first += by * PER_PAGE;
  showPage();
  document.getElementById("images").scrollIntoView();
}

const shownWidth = page.width >= 150 ? Math.min(page.width, 256) : page.width * Math.round(190 / page.width);
card.style.setProperty("--tile", `${shownWidth}px`);
fillFilters();
search();
filters.addEventListener("input", search);
filters.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("previous-page").addEventListener("click", () => turnPage(-1));
document.getElementById("next-page").addEventListener("click", () => turnPage(1));
document.getElementById("previous-image").addEventListener("click", () => turn(-1));
document.getElementById("next-image").addEventListener("click", () => turn(1));
document.addEventListener("keydown", onKey);
addEventListener("hashchange", follow);
follow();
