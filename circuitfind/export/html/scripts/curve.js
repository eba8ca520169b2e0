// Faithfulness (or KL) against the number of edges: circuits of every size by score, a sweep's circuits, this circuit.

const CHART = { width: 640, height: 300, left: 52, right: 16, top: 14, bottom: 42 };

function buildSizes() {
  if (!page.curve && page.sweep.length < 2) return;
  byId("sizes").replaceChildren(
    make("h2", { id: "sizes-title" }, "Faithfulness by size"),
    make("p", { class: "lead" }, leadOfSizes()),
    make("div", { class: "choice", role: "radiogroup", "aria-label": "What is drawn" },
      makeChoice("measure", [["faithfulness", "faithfulness"], ["kl", "KL, nats"]], state.measure, (measure) => change({ measure }))),
    make("div", { id: "chart", class: "chart" }),
    make("details", {}, make("summary", {}, "The numbers"), makeSizesTable()));
  byId("sizes").hidden = false;
  drawChart();
}

function leadOfSizes() {
  if (!page.curve) return "The circuits of the sweep that this one is of. 1 is the full model, 0 the ablated one.";
  const { cpr, cmd, metric } = page.curve;
  return `Circuits made of the same scores at every size, ${metric}. CPR ${show(cpr)} (more is better; above 1 is over-recovery), CMD ${show(cmd)} (0 is best).`;
}

function seriesOf(measure) {
  const points = (list) => list.map((point) => [point.edges, point[measure]]).filter((point) => point[1] !== null && point[1] !== undefined);
  const series = page.curve ? [["signed", "highest scores", points(page.curve.signed)], ["absolute", "highest |scores|", points(page.curve.absolute)]] : [];
  if (page.sweep.length > 1) series.push(["sweep", "the sweep", points(page.sweep).sort((a, b) => a[0] - b[0])]);
  return series.map(([kind, name, list]) => [kind, name, list.filter((point, place) => !place || point[0] !== list[place - 1][0] || point[1] !== list[place - 1][1])]);
}

// Linear in y, logarithmic in x, where a circuit of no edges joins at the left.
function scalesOf(series, own) {
  const every = [...series.flatMap(([, , points]) => points), ...own];
  const most = Math.max(...every.map((point) => point[0]), 2), ys = every.map((point) => point[1]);
  const isShare = state.measure === "faithfulness";
  const low = Math.min(0, ...ys), high = Math.max(isShare ? 1.05 : 0.1, ...ys) * 1.04;
  const x = (value) => CHART.left + (CHART.width - CHART.left - CHART.right) * Math.log1p(value) / Math.log1p(most);
  const y = (value) => CHART.top + (CHART.height - CHART.top - CHART.bottom) * (high - value) / (high - low);
  return { x, y, most, low, high };
}

function drawChart() {
  const chart = byId("chart");
  if (!chart) return;
  CHART.width = clamp(chart.clientWidth, 280, 760);
  const series = seriesOf(state.measure), point = page.point;
  const hasPoint = point && point[state.measure] !== null && point[state.measure] !== undefined && (state.measure === "kl" || !page.curve || point.metric === page.curve.metric);
  const own = hasPoint ? [[point.edges, point[state.measure]]] : [];
  const scales = scalesOf(series, own);
  const svg = makeSvg("svg", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img", "aria-label": `${state.measure} against the number of edges; the numbers are in the table below` },
    ...makeAxes(scales),
    ...series.flatMap(([kind, , points]) => makeLine(kind, points, scales)),
    makeSvg("line", { id: "cursor", class: "cursor", y1: CHART.top, y2: CHART.height - CHART.bottom }),
    ...own.flatMap(([edges, value]) => makeOwn(edges, value, scales)));
  const legend = make("ul", { class: "legend" }, series.map(([kind, name]) => make("li", {}, make("span", { class: `dot ${kind}` }), name)),
    hasPoint ? make("li", {}, make("span", { class: "dot own" }), "this circuit") : null);
  chart.replaceChildren(svg, legend);
  chart.scales = scales;
  moveCursor();
}

function makeAxes({ x, y, most, low, high }) {
  const right = CHART.width - CHART.right, bottom = CHART.height - CHART.bottom, found = [];
  const step = [0.1, 0.2, 0.25, 0.5, 1, 2, 2.5, 5, 10, 20, 50].find((each) => (high - low) / each <= 6) || high - low;
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
    const rounded = Number(value.toPrecision(6));
    found.push(makeSvg("line", { class: Math.abs(rounded) < 1e-9 || (rounded === 1 && state.measure === "faithfulness") ? "axis" : "grid", x1: CHART.left, x2: right, y1: y(value), y2: y(value) }),
      makeSvg("text", { x: CHART.left - 8, y: y(value) + 4, class: "left" }, rounded < 0 ? `\u2212${-rounded}` : `${rounded + 0}`));
  }
  for (let value = 1; value <= most; value *= 10) {
    found.push(makeSvg("line", { class: "grid", x1: x(value), x2: x(value), y1: bottom, y2: bottom + 5 }),
      makeSvg("text", { x: x(value), y: bottom + 18, class: "under" }, value.toLocaleString("en")));
  }
  found.push(makeSvg("text", { x: (CHART.left + right) / 2, y: CHART.height - 6, class: "under" }, "edges in the circuit"));
  return found;
}

function makeLine(kind, points, { x, y }) {
  const path = points.map(([edges, value], place) => `${place ? "L" : "M"}${x(edges).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  return [makeSvg("path", { class: `line ${kind}`, d: path }),
    ...points.map(([edges, value]) => makeSvg("circle", { class: kind, cx: x(edges), cy: y(value), r: 3 },
      makeSvg("title", {}, `${edges.toLocaleString("en")} edges: ${show(value)}`)))];
}

function makeOwn(edges, value, { x, y, low, high }) {
  const interval = state.measure === "faithfulness" && page.point.interval;
  const bar = interval ? makeSvg("line", { class: "interval", x1: x(edges), x2: x(edges), y1: y(clamp(interval[0], low, high)), y2: y(clamp(interval[1], low, high)) }) : null;
  const mark = makeSvg("circle", { class: "own", cx: x(edges), cy: y(value), r: 5 }, makeSvg("title", {}, `this circuit, ${edges.toLocaleString("en")} edges: ${show(value)}`));
  return bar ? [bar, mark] : [mark];
}

// Where the slider stands among the sizes.
function moveCursor() {
  const cursor = byId("cursor"), chart = byId("chart");
  if (!cursor || neurons) return;
  const x = chart.scales.x(Math.min(state.count, chart.scales.most));
  cursor.setAttribute("x1", x);
  cursor.setAttribute("x2", x);
}

function makeSizesTable() {
  const rows = [];
  const add = (name, list) => list.forEach((point) => rows.push([name, point.edges.toLocaleString("en"), show(point.faithfulness), show(point.kl)]));
  if (page.curve) {
    add("highest scores", page.curve.signed);
    add("highest |scores|", page.curve.absolute);
  }
  add("sweep", page.sweep);
  return makeTable("Circuits of every size", ["chosen by", "edges", "faithfulness", "KL, nats"], rows, "numbers");
}
