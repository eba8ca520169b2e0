// A head's attention on a prompt pair: a matrix, and what one position looks at, token by token.

function makePattern(node) {
  if (!observed || node.kind !== "head") return null;
  if (!observed.patterns[node.index]) {
    return make("section", {}, make("h3", {}, "Attention"), make("p", { class: "hint" }, "Its patterns are left out: the page has room for the strongest heads'."));
  }
  const runs = [["clean", "clean"], ["corrupted", "corrupted"], ["difference", "difference"]];
  return make("section", { class: "attention" },
    make("h3", {}, "Attention"),
    make("div", { class: "row" }, makePairChoice()),
    make("div", { class: "row" },
      make("div", { class: "choice", role: "radiogroup", "aria-label": "Of which prompt" },
        makeChoice("run", runs, state.run, (run) => change({ run })))),
    make("canvas", { id: "matrix", class: "matrix", role: "img", onpointermove: pointAtCell, onclick: pickQuery }),
    make("p", { id: "cell", class: "cell hint" }),
    make("p", { id: "strip", class: "strip" }));
}

function makePairChoice() {
  const label = (pair, place) => `${place + 1}. ${pair.clean.join("")}`;
  const options = observed.pairs.map((pair, place) => make("option", { value: place, selected: place === state.pair }, label(pair, place)));
  return make("select", { "aria-label": "Prompt pair", onchange: (event) => change({ pair: Number(event.target.value), query: -1 }) }, options);
}

// The attention that is asked for: [query][key], of a difference from -1 to 1.
function attention(node) {
  if (state.run !== "difference") return patternOf(node, state.pair, state.run);
  const clean = patternOf(node, state.pair, "clean"), corrupted = patternOf(node, state.pair, "corrupted");
  return clean.map((row, query) => row.map((value, key) => value - corrupted[query][key]));
}

function tokensOf() {
  return observed.pairs[state.pair][state.run === "corrupted" ? "corrupted" : "clean"];
}

let cells = null; // where the matrix stands on its canvas

function drawPattern() {
  const matrix = byId("matrix");
  if (!matrix || state.node < 0) return;
  const values = attention(nodes[state.node]), tokens = tokensOf();
  const query = state.query < 0 || state.query >= values.length ? values.length - 1 : state.query;
  drawMatrix(matrix, values, tokens, query, window.devicePixelRatio || 1);
  describeCell(values, tokens, query, strongestKey(values[query]));
  matrix.setAttribute("aria-label", `Attention, ${state.run}, of ${values.length} tokens. ${byId("cell").textContent}`);
  drawStrip(values[query], tokens, query);
}

function strongestKey(row) {
  return row.reduce((best, value, key) => (Math.abs(value) > Math.abs(row[best]) ? key : best), 0);
}

function drawMatrix(matrix, values, tokens, query, density) {
  const width = Math.max(240, matrix.parentElement.clientWidth), room = Math.min(96, width * 0.27);
  const size = Math.min((width - room - 2) / tokens.length, 22), side = size * tokens.length, top = room * 0.8;
  cells = { left: room, top, size, n: tokens.length };
  matrix.style.width = `${width}px`;
  matrix.style.height = `${top + side + 2}px`;
  matrix.width = width * density;
  matrix.height = (top + side + 2) * density;
  const context = matrix.getContext("2d");
  context.scale(density, density);
  for (const [row, of] of values.entries()) for (const [key, value] of of.entries()) {
    context.fillStyle = value < 0 ? ink.cool : ink.warm;
    context.globalAlpha = Math.min(1, Math.abs(value));
    context.fillRect(room + key * size, top + row * size, size - (size > 6), size - (size > 6));
  }
  context.globalAlpha = 1;
  context.strokeStyle = ink.muted;
  context.lineWidth = 0.6;
  context.strokeRect(room - 0.5, top - 0.5, side + 1, side + 1);
  context.strokeStyle = ink.ink;
  context.lineWidth = 1;
  context.strokeRect(room, top + query * size, size * (query + 1) - 0.5, size - 0.5);
  labelMatrix(context, tokens, query, room, top, size);
}

// Token names; where cells are small only as many as can be read.
function labelMatrix(context, tokens, query, room, top, size) {
  const font = clamp(size * 0.8, 8.5, 11), every = Math.ceil(9 / size);
  context.font = `${font}px ui-monospace, monospace`;
  const longest = Math.floor((room - 8) / (font * 0.61));
  for (const [place, token] of tokens.entries()) {
    if (place % every && place !== query) continue;
    const text = spell(token), name = text.length > longest ? `${text.slice(0, longest - 1)}\u2026` : text;
    context.fillStyle = place === query ? ink.ink : ink.muted;
    context.textAlign = "right";
    context.fillText(name, room - 5, top + (place + 0.5) * size + font * 0.35);
    context.save();
    context.translate(room + (place + 0.5) * size + font * 0.35, top - 5);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillText(name.slice(0, Math.floor(longest * 0.8)), 0, 0);
    context.restore();
  }
}

function describeCell(values, tokens, query, key) {
  const sign = state.run === "difference" ? (values[query][key] > 0 ? "+" : "") : "";
  byId("cell").textContent = `${spell(tokens[query])} (${query}) to ${spell(tokens[key])} (${key}): ${sign}${show(values[query][key], 2)}`;
}

// What one position looks at, as the prompt's own words.
function drawStrip(row, tokens, query) {
  const spans = tokens.map((token, key) => {
    const value = key <= query ? row[key] : 0;
    const span = make("button", {
      type: "button",
      class: `token${key === query ? " query" : ""}${key > query ? " later" : ""}`,
      title: `${spell(token)}: ${show(value, 2)}`,
      "aria-label": `${word(token)}, attention ${show(value, 2)}; show what it looks at`,
      onclick: () => change({ query: key }),
    }, token);
    span.style.backgroundColor = `color-mix(in srgb, ${value < 0 ? "var(--cool)" : "var(--warm)"} ${Math.round(Math.abs(value) * 78)}%, transparent)`;
    return span;
  });
  byId("strip").replaceChildren(...spans);
}

function cellAt(event) {
  const box = event.target.getBoundingClientRect();
  const place = (at, start) => Math.floor((at - start) / cells.size);
  const key = place(event.clientX - box.left, cells.left), query = place(event.clientY - box.top, cells.top);
  return query >= 0 && query < cells.n && key >= 0 && key <= query ? [query, key] : null;
}

function pointAtCell(event) {
  const at = cellAt(event);
  if (at) describeCell(attention(nodes[state.node]), tokensOf(), ...at);
}

function pickQuery(event) {
  const at = cellAt(event);
  if (at) change({ query: at[0] });
}
