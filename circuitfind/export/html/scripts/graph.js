// The graph: nodes as elements above the canvas of edges, the slider, the keyboard, the legend.

const stage = byId("stage"), scroller = byId("scroller"), nodesSvg = byId("nodes"), tip = byId("tip");
let layout = null;
let elements = []; // by instance: { instance, group, count }
let focused = 0; // which of them takes the keyboard

function buildGraph() {
  const box = scroller.getBoundingClientRect();
  const width = Math.max(280, scroller.clientWidth || box.width) * state.zoom;
  layout = layOut(state.role, width, Math.max(360, clamp(window.innerHeight - 250, 420, 900)) * state.zoom);
  stage.style.width = `${layout.width}px`;
  stage.style.height = `${layout.height}px`;
  for (const svg of [nodesSvg, byId("bands")]) {
    for (const [name, value] of [["viewBox", `0 0 ${layout.width} ${layout.height}`], ["width", layout.width], ["height", layout.height]]) svg.setAttribute(name, value);
  }
  sizeCanvas(window.devicePixelRatio || 1);
  makeCurves();
  elements = layout.instances
    .sort((a, b) => b.y - a.y || a.x - b.x)
    .map((instance) => ({ instance, group: makeNode(instance), isOff: null, text: null }));
  byId("bands").replaceChildren(...makeBands(), ...makeBorders());
  nodesSvg.replaceChildren(...makeLayerNames(), ...elements.map(({ group }) => group));
  focused = Math.max(0, elements.findIndex(({ instance }) => instance.node.index === state.node));
  setFocusable(focused);
  showNodes();
  drawEdges();
  prepareSnapshots();
}

// A strip for every other layer.
function makeBands() {
  const even = layout.layers.map((_, place) => place).filter((place) => place % 2 === 0);
  return even.map((place) => makeSvg("rect", { class: "band", x: 0, y: bottomOf(place) - layout.row, width: layout.width, height: layout.row }));
}

function makeLayerNames() {
  return layout.layers.map((layer, place) => makeSvg("text", { class: "layer", x: 8, y: bottomOf(place) - layout.row * 0.42 + 4, "aria-hidden": "true" }, `L${layer}`));
}

// Where the strip of a layer ends.
function bottomOf(place) {
  return layout.height - END_ROOM - (place - 0.12) * layout.row;
}

// Lines between the columns of one role and those of the next.
function makeBorders() {
  return layout.groups.slice(1).map(({ left }) => {
    const x = left - layout.pitch / 4;
    return makeSvg("line", { class: "border", x1: x, x2: x, y1: 0, y2: layout.height });
  });
}

function makeNode(instance) {
  const { node, x, y, width, height } = instance;
  const place = knownRoles.indexOf(node.role);
  const shape = { x: x - width / 2, y: y - height / 2, width, height, rx: node.kind === "head" ? Math.min(7, height / 2) : 2 };
  const name = instance.role >= 0 ? `${node.name} at ${roles[instance.role]}` : node.name;
  return makeSvg("g", {
    class: `node ${node.kind}${place >= 0 ? ` role-${place % 8}` : ""}${width < 40 ? " small" : ""}`,
    role: "button",
    tabindex: "-1",
    "aria-label": `${name}, ${kindOf(node)}${node.role ? `, ${node.role}` : ""}`,
    onclick: () => openNode(node.index),
    onfocus: () => setFocusable(elements.findIndex((one) => one.instance === instance)),
  },
  makeSvg("rect", { ...shape, class: "back" }),
  makeSvg("rect", { ...shape, class: "tint" }),
  makeSvg("text", { x, y: y + (neurons && node.kind !== "input" && node.kind !== "logits" ? -1 : 4), class: "name" }, labelOf(instance)),
  neurons ? makeSvg("text", { x, y: y + 10, class: "kept" }) : null);
}

// Nodes without an edge among those shown fade; of neurons how many are shown is told.
function showNodes() {
  const counts = neurons ? countNeurons() : null;
  for (const element of elements) {
    const { instance, group } = element;
    const isOff = instance.first >= state.count && !(instance.node.kind === "logits" && !state.count);
    if (isOff !== element.isOff) group.classList.toggle("off", (element.isOff = isOff));
    if (counts && page.neurons.widths[instance.node.index]) showKept(element, counts.get(instance.node.index));
  }
}

function countNeurons() {
  const counts = new Map();
  for (const neuron of neurons.slice(0, state.count)) {
    const before = counts.get(neuron.node) || { kept: 0, sum: 0 };
    counts.set(neuron.node, { kept: before.kept + 1, sum: before.sum + Math.abs(neuron.score) });
  }
  return counts;
}

function showKept(element, { kept, sum } = { kept: 0, sum: 0 }) {
  const text = `${kept} of ${page.neurons.widths[element.instance.node.index].toLocaleString("en")}`;
  if (text === element.text) return;
  element.text = text;
  element.group.querySelector(".kept").textContent = text;
  const tint = element.group.querySelector(".tint");
  tint.classList.add("weight");
  tint.style.fillOpacity = kept ? 0.1 + 0.6 * Math.min(1, Math.sqrt(sum / (4 * reference || 1))) : 0;
}

function markNodes() {
  const near = new Set(state.node < 0 ? [] : litEdges().flatMap((edge) => [edge.from, edge.to]));
  nodesSvg.classList.toggle("picked", state.node >= 0);
  for (const { instance, group } of elements) {
    const isOpen = instance.node.index === state.node;
    group.classList.toggle("open", isOpen);
    group.classList.toggle("near", near.has(instance.node.index));
    group.setAttribute("aria-pressed", isOpen);
  }
}

function openNode(index) {
  change({ node: state.node === index ? -1 : index, edge: -1, query: -1 });
  showPanel();
}

// Where the panel stands under the graph it comes into sight, with some of the graph above it.
function showPanel() {
  if (!matchMedia("(max-width: 900px)").matches || state.node < 0) return;
  requestAnimationFrame(() => window.scrollTo({ top: window.scrollY + panel.getBoundingClientRect().top - 0.4 * window.innerHeight }));
}

// the keyboard: one node takes the focus, arrows move it

function setFocusable(place) {
  if (elements[focused]) elements[focused].group.setAttribute("tabindex", "-1");
  focused = place;
  if (elements[focused]) elements[focused].group.setAttribute("tabindex", "0");
}

const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

nodesSvg.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    openNode(elements[focused].instance.node.index);
  } else if (ARROWS[event.key]) {
    event.preventDefault();
    moveFocus(...ARROWS[event.key]);
  }
});

// To the nearest node that way; what is aside counts three times.
function moveFocus(dx, dy) {
  const here = elements[focused].instance;
  let best = -1, least = Infinity;
  for (const [place, { instance, isOff }] of elements.entries()) {
    const ahead = (instance.x - here.x) * dx + (instance.y - here.y) * dy;
    const aside = Math.abs((instance.x - here.x) * dy) + Math.abs((instance.y - here.y) * dx);
    if (ahead > 1 && !isOff && ahead + 3 * aside < least) [best, least] = [place, ahead + 3 * aside];
  }
  if (best >= 0) elements[best].group.focus();
}

// pointing at an edge

let pointer = null;
stage.addEventListener("pointermove", (event) => {
  if (event.pointerType === "touch") return;
  const isFirst = pointer === null;
  pointer = event;
  if (isFirst) requestAnimationFrame(point);
});
stage.addEventListener("pointerleave", () => {
  pointer = null;
  tip.hidden = true;
  change({ edge: -1 });
});

function point() {
  const event = pointer;
  pointer = null;
  if (!event) return;
  const box = stage.getBoundingClientRect();
  const onNode = event.target.closest && event.target.closest(".node");
  const edge = onNode ? null : edgeAt(event.clientX - box.left, event.clientY - box.top);
  tip.hidden = !edge;
  if (edge) {
    const around = tip.parentElement.getBoundingClientRect();
    tip.textContent = `${edgeName(edge)}  ${show(edge.score)}${edge.lower === undefined ? "" : ` [${show(edge.lower)}, ${show(edge.upper)}]`}`;
    tip.style.left = `${clamp(event.clientX - around.left + 14, 4, Math.max(4, around.width - tip.offsetWidth - 8))}px`;
    tip.style.top = `${event.clientY - around.top + 16}px`;
  }
  change({ edge: edge && (state.node < 0 || edge.from === state.node || edge.to === state.node) ? edge.index : -1 });
}

// legend

function buildLegend() {
  const slots = [["q", "into queries"], ["k", "keys"], ["v", "values"], ["", "MLPs, logits"]];
  const present = new Set(edges.map((edge) => edge.slot));
  const lines = neurons ? [] : slots.filter(([slot]) => present.has(slot)).map(([slot, text]) => makeSample(`line-${slot || "other"}`, text));
  if (!neurons && edges.some((edge) => edge.score < 0)) lines.push(makeSample("line-negative", "negative score"));
  if (!neurons && edges.length) lines.push(make("li", { class: "hint" }, `the thicker, the larger |score|; thickest from ${show(reference)}`));
  if (neurons) lines.push(make("li", { class: "hint" }, "the fuller its colour, the larger the |scores| of a node's neurons"));
  const kinds = knownRoles.map((role, place) => make("li", {}, make("span", { class: `swatch role-${place % 8}` }), role));
  byId("legend").replaceChildren(...lines, ...kinds);
}

function makeSample(kind, text) {
  const drawing = makeSvg("svg", { width: 26, height: 8, "aria-hidden": "true", class: kind },
    makeSvg("line", { x1: 0, x2: 26, y1: 4, y2: 4 }),
    kind === "line-negative" ? makeSvg("line", { x1: 25, x2: 25, y1: 0, y2: 8 }) : null);
  return make("li", {}, drawing, text);
}
