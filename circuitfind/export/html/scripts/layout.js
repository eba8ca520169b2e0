// Where nodes stand: rows are layers, the input below and the logits above; columns are heads by their number, so that
// heads of one number stand above each other; MLPs on a spine in the middle, half a row above the heads that they read.
// Of a circuit of positions each role has columns of its own, side by side, and a node stands at each role of its edges.

const LEFT = 34, RIGHT = 10, END_ROOM = 46;
const PITCH = { least: 30, most: 100 }, ROW = { least: 34, most: 130 };

// Which nodes stand where: [{ node, role, edges }], by node and role.
function makeInstances(role) {
  const found = new Map();
  const put = (node, at, edge) => {
    const key = `${node.index} ${at}`;
    if (!found.has(key)) found.set(key, { node, role: at, first: Infinity, edges: [] });
    const instance = found.get(key);
    if (edge) {
      instance.edges.push(edge);
      instance.first = Math.min(instance.first, edge.index);
    }
    return instance;
  };
  const last = roles.length - 1;
  for (const edge of edges) {
    if (role >= 0 && edge.role !== role) continue;
    put(nodes[edge.from], edge.role, edge);
    put(nodes[edge.to], edge.role, edge);
  }
  const at = roles.length ? (role >= 0 ? role : last) : -1;
  const isThere = new Set([...found.values()].map((instance) => instance.node));
  for (const node of nodes) {
    const isEnd = node.kind === "input" || node.kind === "logits";
    if (isEnd ? node.kind === "input" || role < 0 || role === last : !isThere.has(node) && isFree(node)) put(node, at, null);
  }
  for (const each of new Set([...found.values()].map((instance) => instance.role))) put(nodes[0], each, null);
  if (neurons) for (const instance of found.values()) {
    const own = instance.node.neurons;
    instance.first = instance.node.kind === "input" || instance.node.kind === "logits" ? 0 : own.length ? own[0].index : Infinity;
  }
  return found;
}

// A node without any edge has a place of its own: one of a known circuit, or of neurons.
function isFree(node) {
  return !node.into.length && !node.from.length;
}

// The instances with their places, for a pane of this size; larger where that is too small.
function layOut(role, width, height) {
  const found = makeInstances(role);
  const instances = [...found.values()];
  const groups = groupByRole(instances);
  const layers = [...new Set(instances.map(({ node }) => node.layer).filter((layer) => layer >= 0))].sort((a, b) => a - b);
  const units = groups.reduce((sum, group) => sum + group.units, 0) + 0.5 * (groups.length - 1);
  const pitch = clamp((width - LEFT - RIGHT) / Math.max(units, 3), PITCH.least, PITCH.most);
  const row = clamp((height - 2 * END_ROOM) / Math.max(layers.length, 1), ROW.least, ROW.most);
  const full = { width: Math.max(width, LEFT + RIGHT + units * pitch), height: 2 * END_ROOM + layers.length * row };
  const box = { width: Math.min(pitch - 5, 64), height: clamp(row * 0.45, 16, neurons ? 32 : 24) };
  let left = LEFT + (full.width - LEFT - RIGHT - units * pitch) / 2;
  for (const group of groups) {
    placeGroup(group, left, pitch, row, layers, full, box);
    group.left = left;
    left += (group.units + 0.5) * pitch;
  }
  return { ...full, found, instances, groups, layers, pitch, row, box };
}

function groupByRole(instances) {
  const numbers = [...new Set(instances.map(({ role }) => role))].sort((a, b) => a - b);
  return numbers.map((role) => {
    const own = instances.filter((instance) => instance.role === role);
    const heads = [...new Set(own.filter(({ node }) => node.kind === "head").map(({ node }) => node.head))].sort((a, b) => a - b);
    const spine = own.some(({ node }) => node.kind === "mlp") ? 1 : 0;
    return { role, own, heads, spine, units: Math.max(heads.length + spine, 2) };
  });
}

function placeGroup(group, left, pitch, row, layers, full, box) {
  const half = Math.ceil(group.heads.length / 2);
  const start = left + (group.units - group.heads.length - group.spine) / 2 * pitch;
  const middle = group.spine ? start + (half + 0.5) * pitch : left + group.units * pitch / 2;
  for (const instance of group.own) {
    const { node } = instance;
    const place = group.heads.indexOf(node.head);
    const level = full.height - END_ROOM - (layers.indexOf(node.layer) + (node.kind === "mlp" && !page.graph.parallel ? 0.72 : 0.3)) * row;
    instance.width = node.kind === "head" || node.kind === "mlp" ? box.width : Math.min(group.units * pitch, 92);
    instance.height = box.height;
    instance.x = node.kind === "head" ? start + (place + (place >= half ? group.spine : 0) + 0.5) * pitch : middle;
    instance.y = { input: full.height - 16, logits: 16 }[node.kind] || level;
  }
}

// How a node is called in a box of this width.
function labelOf(instance) {
  const { node, width } = instance;
  if (node.kind === "input" && instance.role >= 0 && layout.groups.length > 1) return `input@${roles[instance.role]}`;
  return node.kind === "head" && width < 8 + 5.6 * node.name.length ? `h${node.head}` : node.name;
}
