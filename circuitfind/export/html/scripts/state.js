// What is being looked at. A change is told once a frame to all who draw, with the names of what changed.

const state = {
  count: parts.length, // how many edges (or neurons) are shown, the strongest
  by: "count", // what the slider sets: count or score
  role: -1, // the role whose edges are shown; -1: all
  node: -1, // the node that is open; -1: none
  edge: -1, // the edge that is pointed at
  pair: 0,
  run: "clean", // of the attention pattern: clean, corrupted or difference
  query: -1, // the position whose attention is spelled out; -1: the last
  zoom: 1,
  theme: "light",
  measure: "faithfulness", // of the curve
};
const drawers = [];
let changed = new Set();

function onChange(names, draw) {
  drawers.push([names, draw]);
}

function change(values) {
  for (const [name, value] of Object.entries(values)) {
    if (state[name] === value) continue;
    state[name] = value;
    if (!changed.size) requestAnimationFrame(flush);
    changed.add(name);
  }
}

function flush() {
  const now = changed;
  changed = new Set();
  for (const [names, draw] of drawers) if (names.some((name) => now.has(name))) draw(now);
}
