// The card of one image: what was measured, for each concept.

const badge = (tone, label) => make("span", { class: `verdict ${tone}` }, label);
const verdictBadge = (verdict) => badge(page.words[verdict].tone, page.words[verdict].label);

/** Fills the card; resolves when all pictures are drawn. */
async function drawCard(card, item) {
  const sprite = await decoded(item);
  const head = [
    make("h2", { id: "card-title", tabindex: -1 }, item.name),
    make("p", { class: "muted" }, item.class_name ? `Class: ${item.class_name}. ` : "",
      `Score ${scoreWords(item.logit)}, ${item.position_words}. `,
      `The detector flags scores above ${scoreWords(item.threshold)}.`),
    ...item.sentences.map((sentence) => make("p", { class: "said" }, sentence)),
    ...(item.gap_words ? [make("p", { class: "muted" }, item.gap_words)] : []),
  ];
  const pictures = make("div", { class: "pictures" },
    figure(small(sprite, "image"), `The image ${item.name}`, "The image"),
    figure(small(sprite, "nearest"), "The nearest normal image", `Nearest normal image: ${item.nearest_id}`),
    figure(small(sprite, "heatmap"), "Heatmap: where the pixels of the image raise or lower its score",
      "Heatmap: orange raises the score, purple lowers it"),
    page.tiles.includes("plausible") ? figure(small(sprite, "plausible"),
      "What is drawn as a normal image, without the detector", "Drawn as a normal image, without the detector")
      : null,
    make("p", { class: "muted" },
      "The heatmap (integrated gradients) shares out among the pixels what the image scores above the nearest normal ",
      "image. It says where the detector looks. It does not say what the detector would accept in that place: the ",
      "counterfactuals below do."));
  const concepts = item.concepts.map((concept, number) => conceptPart(item, sprite, concept, number));
  card.replaceChildren(...head, pictures, ...concepts);
}

function conceptPart(item, sprite, concept, number) {
  const name = `Concept ${number}`, words = page.words[concept.verdict];
  const meaning = words.meaning + (concept.verdict === "duplicate" ? ` It is concept ${concept.duplicate_of}.` : "");
  const kept = concept.repair_words;
  return make("section", { class: "concept", "aria-labelledby": `concept-${number}` },
    make("h3", { id: `concept-${number}` }, name, verdictBadge(concept.verdict)),
    make("p", {}, meaning),
    make("div", { class: "pictures" },
      figure(small(sprite, `${number} counterfactual`), `${name}: the counterfactual; ${words.label}`,
        "Counterfactual: the image changed until normal"),
      figure(difference(sprite, `${number} counterfactual`), `${name}: the change`,
        "The change: red brighter, blue darker, pale unchanged"),
      figure(small(sprite, `${number} repair`), `${name}: the minimal repair. ${kept}`,
        "Minimal repair: the least part of the change found that the detector accepts"),
      figure(difference(sprite, `${number} repair`), `${name}: the change of the minimal repair`,
        "What the minimal repair changes. ", kept)),
    make("div", { class: "columns" }, measured(item, concept), way(item, sprite, concept, number)),
    page.bins > 2 ? binStrip(sprite, concept, number) : null);
}

function measured(item, concept) {
  const before = `${scoreWords(item.logit)}, ${item.position_words}`;
  const after = `${scoreWords(concept.bin_logits[0])}, ${concept.position_words}`;
  const survived = Object.entries(concept.survives).map(([name, survives]) => make("li", {},
    badge(survives ? "holds" : "fails", name.replaceAll("_", " ")), `: ${survives ? "accepted" : "flagged"}`));
  return make("div", {},
    make("h4", {}, "The score among those of the normal images"),
    positionBar(item.position, concept.position, `Score before: ${before}. After: ${after}.`),
    make("p", { class: "muted" },
      "Share of normal images with a lower score. Diamond: the image; disc: the counterfactual."),
    make("dl", { class: "facts" },
      make("dt", {}, "before"), make("dd", {}, before),
      make("dt", {}, "after"), make("dd", {}, after),
      make("dt", {}, "distance"),
      make("dd", {}, `${concept.manifold_distance.toFixed(2)} times the limit that 99\u00a0% of normal images keep`)),
    make("h4", {}, "The counterfactual after an alteration"),
    survived.length ? make("ul", { class: "survives" }, survived) : make("p", { class: "muted" }, "None was tried."));
}

/** From the image to its counterfactual: a slider, the picture there, and the score's curve. */
function way(item, sprite, concept, number) {
  const logits = concept.way_logits, stops = wayStops(sprite, number), last = logits.length - 1;
  const below = logits.findIndex((logit) => logit <= item.threshold);
  const crossing = below < 0 ? "It stays above the threshold." : below === 0 ? "It is never above the threshold."
    : `It first lies at or below the threshold at ${percent(below / last)} of the way.`;
  const text = `Score along the way: ${scoreWords(logits[0])} at the image, ${scoreWords(logits[last])} at the `
    + `counterfactual. ${crossing}`;
  const { drawing, move } = wayCurve(logits, item.threshold, wayStrip(stops, logits.length), text);
  const scale = Math.max(1, Math.ceil(224 / page.width));
  const canvas = make("canvas", { role: "img", width: page.width * scale, height: page.height * scale });
  const slider = make("input", { type: "range", min: 0, max: 4 * last, step: 1, value: 4 * last,
    "aria-label": `Concept ${number}: way from the image to its counterfactual` });
  const readout = make("p", { class: "muted readout" });
  const show = () => {
    const place = slider.valueAsNumber / (4 * last), isMeasured = slider.valueAsNumber % 4 === 0;
    const context = canvas.getContext("2d"), logit = logitAt(logits, place);
    context.imageSmoothingEnabled = false;
    context.drawImage(blended(stops, place), 0, 0, canvas.width, canvas.height);
    move(place);
    const score = isMeasured ? scoreWords(logit) : `about ${scoreWords(logit)}, between two measured points`;
    const judged = logit <= item.threshold ? "accepted" : "flagged";
    readout.textContent = `${percent(place)} of the way: score ${score}; ${judged}.`;
    canvas.setAttribute("aria-label", `Concept ${number}, ${readout.textContent}`);
    slider.setAttribute("aria-valuetext", readout.textContent);
  };
  slider.addEventListener("input", show);
  show();
  return make("div", {},
    make("h4", {}, "Along the way"),
    make("div", { class: "way" }, canvas, make("div", {}, drawing, slider, readout)),
    make("p", { class: "muted" }, `${crossing} Scores are spread at both ends of the scale.`));
}

function binStrip(sprite, concept, number) {
  const bins = Array.from({ length: page.bins }, (_, index) => page.bins - 1 - index);
  const figures = bins.map((bin) => {
    const name = bin ? `${number} bin ${bin}` : `${number} counterfactual`, alpha = (bin / (page.bins - 1)).toFixed(2);
    const text = `wanted ${alpha}, reached ${scoreWords(concept.bin_logits[bin])}`;
    return figure(small(sprite, name), `Concept ${number}: ${text}`, text);
  });
  return make("div", {},
    make("h4", {}, "Changed until a wanted score"),
    make("div", { class: "pictures strip" }, figures));
}
