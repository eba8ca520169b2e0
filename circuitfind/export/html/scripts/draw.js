// The edges, on a canvas: all that are shown are drawn anew each time, those that look alike in one stroke.

const PORTS = { q: -0.55, k: 0, v: 0.55, "": 0 };
const DASHES = { q: [6, 3], k: [1.5, 2.5], v: [], "": [] };
const WIDTHS = 6; // so many widths
const MOST_DASHED = 400; // of more edges a line style is hard to see, and slow
const canvas = byId("edges");
let buckets = []; // [{ slot, share, negative, curves }] of all edges of the layout
let curveOf = []; // by edge

// The curve of each edge of the layout, and which stroke draws it.
function makeCurves() {
  const found = new Map();
  curveOf = [];
  buckets = [];
  if (neurons) return;
  for (const edge of edges) {
    const from = layout.found.get(`${edge.from} ${edge.role}`), to = layout.found.get(`${edge.to} ${edge.role}`);
    if (!from || !to || (state.role >= 0 && edge.role !== state.role)) continue;
    const share = Math.round(strength(edge.score) * (WIDTHS - 1)) / (WIDTHS - 1);
    const key = `${edge.slot} ${share} ${edge.score < 0}`;
    if (!found.has(key)) found.set(key, { slot: edge.slot, share, negative: edge.score < 0, curves: [] });
    curveOf[edge.index] = { rank: edge.index, edge, share, ...curve(from, to, edge.slot) };
    found.get(key).curves.push(curveOf[edge.index]);
  }
  buckets = [...found.values()].sort((a, b) => a.share - b.share);
}

// From the top of the sender to the underside of the receiver; bent where it would hide behind its own column.
function curve(from, to, slot) {
  const x0 = from.x, y0 = from.y - from.height / 2;
  const x3 = to.x + PORTS[slot] * to.width / 2, y3 = to.y + to.height / 2;
  const rise = Math.max(12, (y0 - y3) * 0.42);
  const far = y0 - y3 > 1.4 * layout.row && Math.abs(x3 - x0) < 0.4 * layout.pitch;
  const bend = far ? (slot === "q" || slot === "" ? -1 : 1) * layout.pitch * clamp(0.35 + 0.05 * (y0 - y3) / layout.row, 0.4, 1.1) : 0;
  return { x0, y0, x1: x0 + bend, y1: y0 - rise, x2: x3 + bend, y2: y3 + rise, x3, y3 };
}

// The canvas in the layout's size, with as many dots as the screen (or the printer) has.
function sizeCanvas(density) {
  canvas.width = Math.round(layout.width * density);
  canvas.height = Math.round(layout.height * density);
  canvas.style.width = `${layout.width}px`;
  canvas.style.height = `${layout.height}px`;
}

function drawEdges() {
  const context = canvas.getContext("2d"), density = canvas.width / layout.width;
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, layout.width, layout.height);
  drawBands(context);
  const isDashed = state.count <= MOST_DASHED, opacity = edgeOpacity();
  const isQuiet = state.node >= 0 || state.edge >= 0;
  context.lineCap = "butt";
  for (const bucket of buckets) {
    setStroke(context, bucket, isDashed, isQuiet ? 0.07 : opacity + (0.95 - opacity) * bucket.share);
    context.beginPath();
    for (const curve of bucket.curves) {
      if (curve.rank >= state.count) break;
      addCurve(context, curve);
    }
    context.stroke();
  }
  if (!isQuiet) return drawBars(context, buckets);
  for (const edge of litEdges()) drawLit(context, curveOf[edge.index]);
}

// Many edges are each drawn more faintly.
function edgeOpacity() {
  return clamp(14 / Math.sqrt(state.count + 1), 0.22, 0.75);
}

function setStroke(context, { slot, share }, isDashed, opacity) {
  context.strokeStyle = ink[slot];
  context.globalAlpha = opacity;
  context.lineWidth = 0.6 + 3.2 * share * share;
  context.setLineDash(isDashed ? DASHES[slot] : []);
}

function addCurve(context, { x0, y0, x1, y1, x2, y2, x3, y3 }) {
  context.moveTo(x0, y0);
  context.bezierCurveTo(x1, y1, x2, y2, x3, y3);
}

// What is pointed at, or all edges of the node that is open; of those shown.
function litEdges() {
  const own = state.edge >= 0 ? [edges[state.edge]] : [...nodes[state.node].into, ...nodes[state.node].from];
  return own.filter((edge) => curveOf[edge.index] && (edge.index < state.count || edge.index === state.edge));
}

function drawLit(context, curve) {
  setStroke(context, { slot: curve.edge.slot, share: curve.share }, true, 0.95);
  context.lineWidth += 0.5;
  context.beginPath();
  addCurve(context, curve);
  context.stroke();
  drawBar(context, curve);
}

// A bar across its end marks a negative score.
function drawBars(context, all) {
  for (const bucket of all) {
    if (!bucket.negative) continue;
    for (const curve of bucket.curves) {
      if (curve.rank >= state.count) break;
      drawBar(context, curve);
    }
  }
}

function drawBar(context, { edge, share, x3, y3 }) {
  if (edge.score >= 0) return;
  context.strokeStyle = ink[edge.slot];
  context.globalAlpha = 0.9;
  context.setLineDash([]);
  context.lineWidth = 1.4;
  context.beginPath();
  context.moveTo(x3 - 2.5 - 2 * share, y3 + 2);
  context.lineTo(x3 + 2.5 + 2 * share, y3 + 2);
  context.stroke();
}

function drawBands(context) {
  context.globalAlpha = 1;
  context.font = "10px system-ui, sans-serif";
  for (const [place, layer] of layout.layers.entries()) {
    const bottom = layout.height - END_ROOM - (place - 0.12) * layout.row;
    context.fillStyle = ink.strip;
    if (place % 2 === 0) context.fillRect(0, bottom - layout.row, layout.width, layout.row);
    context.fillStyle = ink.muted;
    context.fillText(`L${layer}`, 8, bottom - layout.row * 0.42 + 4);
  }
}

// The edge that is drawn nearest to a point, within a few pixels.
function edgeAt(x, y) {
  let best = null, least = 36;
  for (const bucket of buckets) for (const curve of bucket.curves) {
    if (curve.rank >= state.count) break;
    if (y > curve.y0 + 6 || y < curve.y3 - 6) continue;
    for (let step = 0; step <= 16; step++) {
      const t = step / 16, s = 1 - t;
      const dx = s * s * s * curve.x0 + 3 * s * s * t * curve.x1 + 3 * s * t * t * curve.x2 + t * t * t * curve.x3 - x;
      const dy = s * s * s * curve.y0 + 3 * s * s * t * curve.y1 + 3 * s * t * t * curve.y2 + t * t * t * curve.y3 - y;
      const distance = dx * dx + dy * dy;
      if (distance < least) [least, best] = [distance, curve.edge];
    }
  }
  return best;
}

// The colours of the canvas, from the style sheet.
let ink = {};
function readInk() {
  ink = { q: colour("--q"), k: colour("--k"), v: colour("--v"), "": colour("--other"), strip: colour("--strip"), muted: colour("--muted"), ink: colour("--ink"), warm: colour("--warm"), cool: colour("--cool"), surface: colour("--surface") };
}
