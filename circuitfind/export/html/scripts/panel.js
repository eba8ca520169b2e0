// The panel beside the graph: the circuit in numbers, or all there is to say of one node.

const MOST_ROWS = matchMedia("(max-width: 900px)").matches ? 12 : 40;
const panel = byId("panel");
let openTables = new Set();

function buildPanel() {
  const hadFocus = panel.contains(document.activeElement);
  const kept = hadFocus && document.activeElement.getAttribute("aria-label");
  panel.replaceChildren(...(state.node < 0 ? circuitParts() : nodeParts(nodes[state.node])).filter((part) => part !== null));
  drawPattern();
  if (hadFocus) {
    const same = kept && [...panel.querySelectorAll("[aria-label]")].find((one) => one.getAttribute("aria-label") === kept);
    (same || panel).focus({ preventScroll: true });
  }
}

function circuitParts() {
  const numbers = page.summary.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  const evidence = page.evidence.length
    ? makeTable("Means over prompts", ["mean over prompts", "model", "circuit", "ablated"], page.evidence, "numbers") : null;
  return [
    make("h2", {}, "The circuit"),
    make("dl", { class: "facts" }, numbers),
    evidence,
    make("p", { class: "hint" }, parts.length ? "Choose a node to see its edges, its attention and what it writes." : "Nothing was kept: the circuit is empty."),
    neurons ? makeNeuronTable("The strongest neurons", neurons, true) : makeEdgeTable("The strongest edges", edges, null),
  ];
}

function nodeParts(node) {
  return [
    make("div", { class: "panel-head" },
      make("h2", {}, node.name),
      make("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: () => change({ node: -1 }) }, "\u00d7")),
    make("p", { class: "kind" }, kindOf(node), node.layer >= 0 ? `, layer ${node.layer}` : "", node.role ? make("span", { class: `tag role-${knownRoles.indexOf(node.role) % 8}` }, node.role) : null),
    isAbsent(node) ? make("p", { class: "hint" }, "Not in this circuit: a known circuit has it.") : null,
    makePattern(node),
    makeWrites(node),
    neurons && node.neurons.length ? makeNeuronTable("Its neurons", node.neurons, false) : null,
    neurons ? null : makeEdgeTable("Edges in", node.into, "from"),
    neurons ? null : makeEdgeTable("Edges out", node.from, "to"),
  ];
}

function isAbsent(node) {
  return !neurons && !node.into.length && !node.from.length && node.kind !== "logits" && node.kind !== "input";
}

// Edges with scores; side: which end is named, null for both.
function makeEdgeTable(title, all, side) {
  if (side && !all.length) return null;
  const own = all.filter((edge) => state.role < 0 || edge.role === state.role);
  const isSure = own.length > 0 && own[0].lower !== undefined;
  const head = [side === null ? "edge" : side, "score", ...(isSure ? [intervalTitle(), makeInclusionTitle()] : [])];
  return makeLong(title, own, head, (edge) => [
    makeEdgeCell(edge, side),
    show(edge.score),
    ...(isSure ? [`${show(edge.lower, 2)} to ${show(edge.upper, 2)}`, percent(edge.inclusion)] : []),
  ]);
}

function intervalTitle() {
  return page.surenessLevel ? `${percent(page.surenessLevel)} interval` : "interval";
}

function makeInclusionTitle() {
  return make("abbr", { title: "the share of resampled circuits that have it" }, "in");
}

function makeEdgeCell(edge, side) {
  const point = (index) => () => change({ edge: index });
  const names = { from: nodes[edge.from].name + (edge.slot ? ` <${edge.slot}>` : "") + (edge.role >= 0 && nodes[edge.to].kind !== "logits" ? ` @${roles[edge.role]}` : ""), to: receiverName(edge) };
  const target = side === "from" ? edge.from : edge.to;
  return make("button", {
    type: "button",
    class: `link slot-${edge.slot || "other"}${edge.index < state.count ? "" : " beyond"}`,
    "data-edge": edge.index,
    "aria-label": `${edgeName(edge)}: open ${nodes[target].name}`,
    onmouseenter: point(edge.index), onmouseleave: point(-1), onfocus: point(edge.index), onblur: point(-1),
    onclick: () => change({ node: target, edge: -1, query: -1 }),
  }, side === null ? edgeName(edge) : names[side]);
}

function makeNeuronTable(title, own, isLinked) {
  const isSure = own.length > 0 && own[0].lower !== undefined;
  return makeLong(title, own, ["neuron", "score", ...(isSure ? [intervalTitle(), makeInclusionTitle()] : [])], (neuron) => [
    isLinked ? make("button", { type: "button", class: "link", onclick: () => change({ node: neuron.node }) }, neuronName(neuron)) : neuronName(neuron),
    show(neuron.score),
    ...(isSure ? [`${show(neuron.lower, 2)} to ${show(neuron.upper, 2)}`, percent(neuron.inclusion)] : []),
  ]);
}

// A table that is cut where it is long, until all of it is asked for.
function makeLong(title, all, head, row) {
  const key = `${state.node} ${title}`, isOpen = openTables.has(key);
  const rows = (isOpen ? all : all.slice(0, MOST_ROWS)).map(row);
  const more = all.length > rows.length
    ? make("button", { type: "button", class: "more", onclick: () => { openTables.add(key); buildPanel(); } }, `All ${all.length.toLocaleString("en")}`) : null;
  return make("section", { class: "list" }, make("h3", {}, title, make("span", { class: "count" }, all.length.toLocaleString("en"))),
    all.length ? makeTable(title, head, rows, "edges") : make("p", { class: "hint" }, "None."), more);
}

// What the slider has left out is faint in the tables too.
function markBeyond() {
  for (const link of panel.querySelectorAll("[data-edge]")) link.classList.toggle("beyond", Number(link.dataset.edge) >= state.count);
}
