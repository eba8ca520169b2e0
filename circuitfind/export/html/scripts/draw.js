// The edges, on a canvas. They are painted from the strongest on, each beneath those before it, and what is painted so
// far is kept in a few snapshots: another number of edges takes a snapshot and the few edges behind it, at any size.

const PORTS = { q: -0.55, k: 0, v: 0.55, "": 0 };
const DASHES = { q: [6, 3], k: [1.5, 2.5], v: [], "": [] };
const MOST_DASHED = 400; // so many have a line style: of more it can't be seen
const SNAPSHOTS = { bytes: 96e6, most: 16 };
const DIM = 0.13; // what is left of all edges where some are lit
const canvas = byId("edges");
let curves = []; // of the edges of the layout, the strongest first
let curveOf = []; // by edge
let snapshots = []; // canvases: of 0, stride, 2 stride, ... curves
let stride = 1;

// The curve of each edge of the layout.
function makeCurves() {
  const thin = clamp((150 / (edges.length + 1)) ** 0.3, 0.4, 1); // many edges, thin lines
  curves = [];
  curveOf = [];
  for (const edge of neurons ? [] : edges) {
    const from = layout.found.get(`${edge.from} ${edge.role}`), to = layout.found.get(`${edge.to} ${edge.role}`);
    if (!from || !to || (state.role >= 0 && edge.role !== state.role)) continue;
    const share = strength(edge.score);
    curveOf[edge.index] = { edge, share, width: 0.6 * thin + 3.2 * thin * share * share, ...curve(from, to, edge.slot) };
    curves.push(curveOf[edge.index]);
  }
  forgetSnapshots();
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
  forgetSnapshots();
}

function forgetSnapshots() {
  snapshots = [];
  const room = Math.floor(SNAPSHOTS.bytes / (4 * canvas.width * canvas.height + 1));
  stride = Math.max(1, Math.ceil(curves.length / clamp(room, 2, SNAPSHOTS.most)));
}

// The snapshot of so many strides, made of the one before.
function snapshot(number) {
  for (let place = snapshots.length; place <= number; place++) {
    const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
    const context = copy.getContext("2d");
    if (place) context.drawImage(snapshots[place - 1], 0, 0);
    paint(context, (place - 1) * stride, place * stride, 1);
    snapshots.push(copy);
  }
  return snapshots[number];
}

// All that will be needed, one at a time while nothing else is to do.
function prepareSnapshots() {
  const of = snapshots;
  const later = window.requestIdleCallback || ((work) => setTimeout(work, 50));
  const work = () => {
    if (of !== snapshots || snapshots.length * stride > curves.length) return;
    snapshot(snapshots.length);
    later(work);
  };
  later(work);
}

function drawEdges() {
  const context = canvas.getContext("2d"), isDim = state.node >= 0 || state.edge >= 0;
  const count = countShown(), whole = Math.floor(count / stride);
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.globalCompositeOperation = "copy"; // in the place of all that was there
  context.globalAlpha = isDim ? DIM : 1;
  context.drawImage(snapshot(whole), 0, 0);
  paint(context, whole * stride, count, isDim ? DIM : 1);
  context.globalCompositeOperation = "source-over";
  if (isDim) for (const edge of litEdges()) paintOne(context, curveOf[edge.index], 0.95, 0.5, true);
}

// How many of the layout's curves are shown: they are sorted as the edges are.
function countShown() {
  if (curves.length === edges.length) return state.count;
  let count = 0;
  while (count < curves.length && curves[count].edge.index < state.count) count++;
  return count;
}

// Curves from one place to another, beneath what is there.
function paint(context, start, end, opacity) {
  const density = canvas.width / layout.width;
  context.setTransform(density, 0, 0, density, 0, 0);
  context.globalCompositeOperation = "destination-over";
  for (let place = Math.max(0, start); place < Math.min(end, curves.length); place++) {
    const curve = curves[place];
    paintOne(context, curve, opacity * (0.34 + 0.56 * curve.share), 0, place < MOST_DASHED);
  }
}

function paintOne(context, { edge, share, width, x0, y0, x1, y1, x2, y2, x3, y3 }, opacity, more, isDashed) {
  context.strokeStyle = ink[edge.slot];
  context.globalAlpha = opacity;
  context.lineWidth = width + more;
  context.setLineDash(isDashed ? DASHES[edge.slot] : []);
  context.beginPath();
  context.moveTo(x0, y0);
  context.bezierCurveTo(x1, y1, x2, y2, x3, y3);
  context.stroke();
  if (edge.score >= 0) return;
  context.setLineDash([]); // a bar across its end marks a negative score
  context.lineWidth = 1.4;
  context.beginPath();
  context.moveTo(x3 - 2.5 - 2 * share, y3 + 2);
  context.lineTo(x3 + 2.5 + 2 * share, y3 + 2);
  context.stroke();
}

// What is pointed at, or all edges of the node that is open; of those shown.
function litEdges() {
  const own = state.edge >= 0 ? [edges[state.edge]] : [...nodes[state.node].into, ...nodes[state.node].from];
  return own.filter((edge) => curveOf[edge.index] && (edge.index < state.count || edge.index === state.edge));
}

// The edge that is drawn nearest to a point, within a few pixels.
function edgeAt(x, y) {
  let best = null, least = 36;
  for (const curve of curves) {
    if (curve.edge.index >= state.count) break;
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
