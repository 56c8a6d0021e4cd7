"use strict";
// Pictures and drawings. An image's pictures lie in one file as base64 text, which nothing decodes before it is needed.

const page = JSON.parse(document.getElementById("page").textContent);

/** An element with attributes and children (elements or texts; nothing for null). */
function make(tag, attributes = {}, ...children) {
  const isDrawing = ["svg", "g", "line", "path", "circle", "text", "image"].includes(tag);
  const element = isDrawing ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

/** The decoded pictures of an item. */
async function decoded(item) {
  const image = new Image();
  image.src = `data:image/webp;base64,${item.pictures.textContent}`;
  await image.decode();
  return image;
}

/** The named picture as it is, on a small canvas. */
function small(sprite, name) {
  const canvas = make("canvas", { width: page.width, height: page.height });
  const number = page.tiles.indexOf(name);
  const x = (number % page.columns) * page.width, y = Math.floor(number / page.columns) * page.height;
  canvas.getContext("2d").drawImage(sprite, -x, -y);
  return canvas;
}

const pixelsOf = (canvas) => canvas.getContext("2d").getImageData(0, 0, page.width, page.height);

/** A small canvas with these pixels. */
function painted(pixels) {
  const canvas = make("canvas", { width: page.width, height: page.height });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** What the named picture changes in the image, as Python's signed_difference. */
function difference(sprite, name) {
  const before = pixelsOf(small(sprite, "image")).data, after = pixelsOf(small(sprite, name)).data;
  const pixels = new ImageData(page.width, page.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const change = [0, 1, 2].map((channel) => after[i + channel] - before[i + channel]);
    const strength = Math.max(...change.map(Math.abs)) / 255;
    const towards = change[0] + change[1] + change[2] < 0 ? page.scale.falling : page.scale.rising;
    const colour = page.scale.neutral.map((neutral, channel) => neutral + strength * (towards[channel] - neutral));
    pixels.data.set([...colour.map(Math.round), 255], i);
  }
  return painted(pixels);
}

/** A small canvas, enlarged, with its caption and a text that says the same to those who do not see it. */
function figure(picture, text, ...caption) {
  const scale = Math.max(1, Math.ceil(280 / page.width)); // enlarged here: print would blur an enlarged small canvas
  const size = { width: page.width * scale, height: page.height * scale };
  const canvas = make("canvas", { role: "img", "aria-label": text, ...size });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, size.width, size.height);
  return make("figure", {}, canvas, make("figcaption", {}, ...caption));
}

/** The pixels of the pictures that the way passes, as Python's way_images: the highest alpha bin is left out. */
function wayStops(sprite, concept) {
  const bins = Array.from({ length: page.bins - 2 }, (_, index) => `${concept} bin ${page.bins - 2 - index}`);
  return ["image", ...bins, `${concept} counterfactual`].map((name) => pixelsOf(small(sprite, name)));
}

/** The picture at `place` of the way, 0 the image and 1 the counterfactual, on a small canvas. */
function blended(stops, place) {
  const scaled = place * (stops.length - 1), index = Math.min(Math.floor(scaled), stops.length - 2);
  const share = scaled - index, from = stops[index].data, to = stops[index + 1].data;
  const pixels = new ImageData(page.width, page.height);
  for (let i = 0; i < pixels.data.length; i++) pixels.data[i] = Math.round((1 - share) * from[i] + share * to[i]);
  return painted(pixels);
}

const scoreOf = (logit) => 1 / (1 + Math.exp(-logit));
const percent = (share) => `${Math.round(100 * share)}\u00a0%`; // does not break

/** As Python's score_words: never 0.000 or 1.000, which no score is. */
function scoreWords(logit) {
  const score = scoreOf(logit);
  if (score < 0.0005) return "below 0.001";
  return score > 0.9995 ? "above 0.999" : score.toFixed(3);
}

/** The logit at `place` of the way, on the straight line between the two measured ones. */
function logitAt(logits, place) {
  const scaled = place * (logits.length - 1), index = Math.min(Math.floor(scaled), logits.length - 2);
  return logits[index] + (scaled - index) * (logits[index + 1] - logits[index]);
}

const TICKS = [0.5, 0.1, 0.9, 0.01, 0.99, 0.001, 0.999, 1e-4, 0.9999, 1e-6, 0.999999];

/** Score over the way, spread at both ends as logits are; `move(place)` marks a point. Returns the drawing and move. */
function wayCurve(logits, threshold, strip, text) {
  const left = 66, right = 352, top = 10, bottom = 130, step = (right - left) / (logits.length - 1);
  const lowest = Math.min(...logits, threshold), highest = Math.max(...logits, threshold);
  const margin = 0.08 * (highest - lowest) || 1;
  const x = (place) => left + (right - left) * place;
  const y = (logit) => bottom - ((bottom - top) * (logit - lowest + margin)) / (highest - lowest + 2 * margin);
  const pictureHeight = ((step - 3) * page.height) / page.width;
  const drawing = make("svg", { viewBox: `0 0 372 ${bottom + pictureHeight + 12}`, role: "img", "aria-label": text });
  const taken = [y(threshold)];
  for (const score of TICKS) {
    const height = y(Math.log(score / (1 - score)));
    if (height < top || height > bottom || taken.some((other) => Math.abs(other - height) < 14)) continue;
    taken.push(height);
    drawing.append(make("line", { class: "axis", x1: left, x2: right, y1: height, y2: height }),
      make("text", { x: left - 6, y: height + 4, "text-anchor": "end" }, String(score)));
  }
  const points = logits.map((logit, index) => ({ cx: x(index / (logits.length - 1)), cy: y(logit) }));
  const path = `M${points.map(({ cx, cy }) => `${cx},${cy}`).join("L")}`;
  const hair = make("line", { class: "hair", y1: top, y2: bottom }), point = make("circle", { class: "now", r: 5.5 });
  drawing.append(
    make("line", { class: "limit", x1: left, x2: right, y1: y(threshold), y2: y(threshold) }),
    make("text", { class: "limit", x: left - 6, y: y(threshold) + 4, "text-anchor": "end" }, "threshold"),
    hair, make("path", { class: "curve", d: path }),
    ...points.map((place) => make("circle", { class: "measured", r: 2.2, ...place })),
    make("image", { href: strip, x: left - step / 2, y: bottom + 8, width: step * logits.length,
      height: pictureHeight }),
    point,
  );
  const move = (place) => {
    for (const end of ["x1", "x2"]) hair.setAttribute(end, x(place));
    point.setAttribute("cx", x(place));
    point.setAttribute("cy", y(logitAt(logits, place)));
  };
  return { drawing, move };
}

/** Where a score lies among the normal images', before and after the change. */
function positionBar(before, after, text) {
  const x = (share) => 12 + 336 * share, limit = x(1 - page.falseAlarmRate);
  const anchors = { 0: "start", 0.5: "middle", 1: "end" };
  return make("svg", { viewBox: "0 0 360 58", role: "img", "aria-label": text },
    make("line", { class: "track", x1: x(0), x2: x(1), y1: 28, y2: 28 }),
    make("line", { class: "limit", x1: limit, x2: limit, y1: 16, y2: 40 }),
    make("text", { class: "limit", x: limit, y: 11, "text-anchor": limit > 300 ? "end" : "middle" }, "threshold"),
    [0, 0.5, 1].map((share) => make("text", { x: x(share), y: 54, "text-anchor": anchors[share] }, percent(share))),
    make("path", { class: "before", d: `M${x(before)},20l8,8l-8,8l-8,-8z` }),
    make("circle", { class: "after", cx: x(after), cy: 28, r: 6.5 }));
}

/** A picture file of the way's measured points, side by side with a gap. */
function wayStrip(stops, numPoints) {
  const scale = Math.max(1, Math.ceil(68 / page.width)), gap = Math.round((page.width * scale * 3) / 34.5);
  const step = page.width * scale + gap;
  const canvas = make("canvas", { width: step * numPoints, height: page.height * scale });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  for (let index = 0; index < numPoints; index++) {
    const picture = blended(stops, index / (numPoints - 1));
    context.drawImage(picture, index * step + gap / 2, 0, page.width * scale, page.height * scale);
  }
  return canvas.toDataURL();
}
