// The page's data (data.py) as objects. Edges stand in the order of their |score|, the largest first.

const page = JSON.parse(byId("data").textContent);
const roles = page.graph.roles;
const observed = page.observations;

const nodes = page.nodes.map(([name, kind, layer, head, role], index) =>
  ({ index, name, kind, layer, head, role, into: [], from: [], neurons: [] }));

const edges = page.edges.from.map((from, index) => ({
  index,
  from,
  to: page.edges.to[index],
  slot: page.edges.slot[index] === "-" ? "" : page.edges.slot[index],
  role: roles.length ? page.edges.role[index] : -1,
  score: page.edges.score[index],
  ...sureness(page.edges, index),
}));
for (const edge of edges) {
  nodes[edge.to].into.push(edge);
  nodes[edge.from].from.push(edge);
}

const neurons = page.neurons === null ? null : page.neurons.node.map((node, index) => ({
  index,
  node,
  place: page.neurons.index[index],
  score: page.neurons.score[index],
  ...sureness(page.neurons, index),
}));
for (const neuron of neurons || []) nodes[neuron.node].neurons.push(neuron);

// What the slider counts: edges, or neurons where those were kept.
const parts = neurons || edges;
const noun = neurons ? "neurons" : "edges";
const largest = parts.length ? Math.abs(parts[0].score) : 0;
const knownRoles = [...new Set(nodes.map((node) => node.role).filter((role) => role !== null))];

function sureness(columns, index) {
  if (!columns.lower) return {};
  return { lower: columns.lower[index], upper: columns.upper[index], inclusion: columns.inclusion[index] };
}

// The end of an edge's name: a5.h2<k>@S2.
function receiverName(edge) {
  const at = edge.role >= 0 && nodes[edge.to].kind !== "logits" ? `@${roles[edge.role]}` : "";
  return nodes[edge.to].name + (edge.slot ? `<${edge.slot}>` : "") + at;
}

function edgeName(edge) {
  return `${nodes[edge.from].name}\u2192${receiverName(edge)}`;
}

function neuronName(neuron) {
  const node = nodes[neuron.node];
  return `${node.name}.${node.kind === "head" ? "d" : "n"}${neuron.place}`;
}

function kindOf(node) {
  return { input: "token embedding", head: "attention head", mlp: "MLP", logits: "logits" }[node.kind];
}

// How many of the parts have at least this |score|: they are sorted, so by halving.
function countAbove(least) {
  let low = 0, high = parts.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (Math.abs(parts[middle].score) >= least) low = middle + 1;
    else high = middle;
  }
  return low;
}

// What fills from 0 to 1 with |score|: its root, so that a few extreme scores leave something of the rest.
const reference = parts.length ? Math.abs(parts[Math.floor(0.05 * parts.length)].score) : 0;
function strength(score) {
  return reference ? Math.min(1, Math.sqrt(Math.abs(score) / reference)) : 0;
}

// A head's attention on a pair in a run as [query][key], from bytes of a lower triangle.
const unpacked = new Map();
function patternOf(node, pair, run) {
  const key = `${node.index} ${pair} ${run}`;
  if (!unpacked.has(key)) unpacked.set(key, unpack(observed.patterns[node.index][pair][run === "clean" ? 0 : 1]));
  return unpacked.get(key);
}

function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const rows = [];
  for (let start = 0; start < bytes.length; start += rows.length) {
    rows.push(Array.from(bytes.subarray(start, start + rows.length + 1), (byte) => byte / 255));
  }
  return rows;
}
