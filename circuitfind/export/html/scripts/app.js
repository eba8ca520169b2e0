// Puts the page together: header, slider, search, theme, printing.

const slider = byId("size"), search = byId("search"), found = byId("found");
const STEPS = 1000; // of the slider where it sets a score

function buildHeader() {
  byId("title").textContent = page.title;
  byId("subtitle").textContent = page.subtitle;
  byId("notes").replaceChildren(...page.notes.map((note) => make("li", {}, note)));
  byId("notes").hidden = !page.notes.length;
  const names = [["explore", "Circuit"], ["prompts", "Prompts"], ["sizes", "Sizes"], ["known", "Known"], ["about", "Method"]];
  byId("sections").replaceChildren(...names.filter(([id]) => !byId(id).hidden).map(([id, name]) => make("a", { href: `#${id}` }, name)));
}

function buildAbout() {
  if (!page.method.length) return;
  byId("about").replaceChildren(make("h2", { id: "about-title" }, "How it was found"),
    make("dl", { class: "facts wide" }, page.method.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])));
  byId("about").hidden = false;
}

// the slider: how many parts, or from which |score| on, on a logarithmic scale

function leastScore() {
  const positive = parts.filter((part) => part.score !== 0);
  return positive.length ? Math.abs(positive[positive.length - 1].score) : 0;
}

function scoreAt(step) {
  const least = leastScore();
  return least ? largest * (least / largest) ** (step / STEPS) : 0;
}

function setSlider() {
  slider.max = state.by === "count" ? parts.length : STEPS;
  slider.disabled = !parts.length;
  const score = state.count ? Math.abs(parts[state.count - 1].score) : largest, least = leastScore();
  const step = largest > least && score ? STEPS * Math.log(score / largest) / Math.log(least / largest) : STEPS;
  slider.value = state.by === "count" ? state.count : step;
}

slider.addEventListener("input", () => {
  const value = Number(slider.value);
  // rounding at the ends leaves nothing out
  change({ count: state.by === "count" ? value : countAbove(scoreAt(value) * (1 - 1e-9)) });
});

function tellSize() {
  const last = state.count ? Math.abs(parts[state.count - 1].score) : null;
  const of = `${state.count.toLocaleString("en")} of ${parts.length.toLocaleString("en")} ${noun}`;
  byId("shown").textContent = last === null ? of : `${of}, |score| \u2265 ${show(last)}`;
  slider.setAttribute("aria-valuetext", byId("shown").textContent);
}

function buildSize() {
  byId("by").replaceChildren(...makeChoice("by", [["count", `Number of ${noun}`], ["score", "Score"]], state.by, (by) => change({ by })));
  setSlider();
  tellSize();
}

// the search

function matches(text) {
  const wanted = text.trim().toLowerCase().replace(/^(\d+)\.h?(\d+)$/, "a$1.h$2");
  if (!wanted) return [];
  const rank = (node) => (node.name === wanted ? 0 : node.name.startsWith(wanted) ? 1 : node.name.includes(wanted) ? 2 : (node.role || "").toLowerCase().includes(wanted) ? 3 : 9);
  return nodes.map((node) => [rank(node), node]).filter(([place]) => place < 9).sort((a, b) => a[0] - b[0]).slice(0, 8).map(([, node]) => node);
}

let choice = 0;
function showMatches() {
  const all = matches(search.value);
  choice = clamp(choice, 0, Math.max(0, all.length - 1));
  const items = all.map((node, place) => make("li", { role: "option", id: `found-${place}`, "aria-selected": place === choice, onpointerdown: (event) => { event.preventDefault(); pick(node); } },
    make("b", {}, node.name), make("span", { class: "hint" }, node.role || kindOf(node))));
  if (!items.length && search.value.trim()) items.push(make("li", { class: "hint", role: "option", "aria-disabled": "true" }, "No such node here"));
  found.replaceChildren(...items);
  found.hidden = !items.length;
  search.setAttribute("aria-expanded", !found.hidden);
  search.setAttribute("aria-activedescendant", all.length ? `found-${choice}` : "");
}

function hideMatches() {
  found.hidden = true;
  search.setAttribute("aria-expanded", "false");
}

function pick(node) {
  search.value = "";
  hideMatches();
  change({ node: node.index, edge: -1, query: -1 });
  const place = elements.findIndex(({ instance }) => instance.node === node);
  if (place >= 0) {
    elements[place].group.scrollIntoView({ block: "nearest", inline: "nearest" });
    setFocusable(place);
  }
  showPanel();
}

search.addEventListener("input", () => { choice = 0; showMatches(); });
search.addEventListener("blur", hideMatches);
search.addEventListener("keydown", (event) => {
  const all = matches(search.value);
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    choice += event.key === "ArrowDown" ? 1 : -1;
    showMatches();
  } else if (event.key === "Enter" && all.length) pick(all[choice]);
  else if (event.key === "Escape") hideMatches();
});
document.addEventListener("keydown", (event) => {
  const isTyping = /INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName) && document.activeElement.type !== "range" && document.activeElement.type !== "radio";
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    search.focus();
  } else if (event.key === "Escape" && !isTyping) change({ node: -1, edge: -1 });
});

// themes

function setTheme() {
  document.documentElement.dataset.theme = state.theme;
  const button = byId("theme");
  button.textContent = state.theme === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Use the ${state.theme === "dark" ? "light" : "dark"} theme`);
  button.setAttribute("aria-pressed", state.theme === "dark");
  readInk();
  forgetSnapshots();
  drawEdges();
  prepareSnapshots();
  drawPattern();
}

byId("theme").addEventListener("click", () => change({ theme: state.theme === "dark" ? "light" : "dark" }));
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
prefersDark.addEventListener("change", () => change({ theme: prefersDark.matches ? "dark" : "light" }));

// On paper the page is light, and its lines as fine as a printer's.
let before = null;
window.addEventListener("beforeprint", () => {
  before = state.theme;
  state.theme = "light";
  setTheme();
  sizeCanvas(3);
  drawEdges();
});
window.addEventListener("afterprint", () => {
  state.theme = before || state.theme;
  sizeCanvas(window.devicePixelRatio || 1);
  setTheme();
});

// roles of positions, zoom, size of the window

function buildRoles() {
  if (!roles.length) return;
  byId("role").replaceChildren(make("option", { value: -1 }, "all roles"), ...roles.map((role, place) => make("option", { value: place }, role)));
  byId("role").addEventListener("change", (event) => change({ role: Number(event.target.value) }));
  byId("role-field").hidden = false;
}

const ZOOMS = [1, 1.3, 1.7, 2.2, 3];
byId("zoom-in").addEventListener("click", () => change({ zoom: ZOOMS[Math.min(ZOOMS.length - 1, ZOOMS.indexOf(state.zoom) + 1)] }));
byId("zoom-out").addEventListener("click", () => change({ zoom: ZOOMS[Math.max(0, ZOOMS.indexOf(state.zoom) - 1)] }));

let lastWidth = 0;
new ResizeObserver(() => {
  if (Math.abs(scroller.clientWidth - lastWidth) < 2) return;
  lastWidth = scroller.clientWidth;
  requestAnimationFrame(() => {
    buildGraph();
    markNodes();
    drawPattern();
    drawChart();
  });
}).observe(scroller);

onChange(["role", "zoom"], buildGraph);
onChange(["count", "node", "edge"], drawEdges);
onChange(["count"], showNodes);
onChange(["count", "by"], (now) => { if (now.has("by")) setSlider(); tellSize(); });
onChange(["count"], () => { moveCursor(); markBeyond(); });
onChange(["node", "role", "zoom"], markNodes);
onChange(["node", "role"], () => { if (state.node >= 0) openTables = new Set(); buildPanel(); panel.scrollTop = 0; });
onChange(["node"], () => {
  const node = nodes[state.node];
  byId("said").textContent = node ? `${node.name} is open: ${neurons ? `${node.neurons.length} neurons` : `${node.into.length} edges in, ${node.from.length} out`}.` : "";
});
onChange(["pair"], buildPanel);
onChange(["run", "query"], drawPattern);
onChange(["theme"], setTheme);
onChange(["measure"], drawChart);

state.theme = prefersDark.matches ? "dark" : "light";
document.documentElement.dataset.theme = state.theme;
readInk();
buildPrompts();
buildSizes();
buildKnown();
buildAbout();
buildHeader();
buildRoles();
buildSize();
buildLegend();
lastWidth = scroller.clientWidth;
buildGraph();
setTheme();
buildPanel();
