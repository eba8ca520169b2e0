// The circuit beside a known one: of each role what it has and what it lacks, and the edges where they are known.

function buildKnown() {
  if (!page.known) return;
  const { known, roles: byRole, nodes: common, edges: commonEdges } = page.known;
  const what = known.level === "heads" ? "heads" : "nodes";
  byId("known").replaceChildren(...[
    make("h2", { id: "known-title" }, "Beside a known circuit"),
    make("p", { class: "lead" }, `${known.title[0].toUpperCase()}${known.title.slice(1)}${known.paper ? ` (${known.paper})` : ""}: ${known.task} in ${known.model}.`),
    make("p", {}, tell(what, common)),
    commonEdges ? make("p", {}, tell("edges", commonEdges)) : null,
    make("table", { class: "roles" },
      make("caption", { class: "heard" }, "What each role has"),
      make("thead", {}, make("tr", {}, ["role", "found", "in the circuit", "missing"].map((title) => make("th", { scope: "col" }, title)))),
      make("tbody", {}, Object.entries(byRole).map(([role, recall]) => make("tr", {},
        make("th", { scope: "row" }, swatchOf(role), role),
        make("td", { class: "number" }, `${recall.found.length} of ${recall.found.length + recall.missing.length}`),
        make("td", {}, chips(recall.found, "found")),
        make("td", {}, chips(recall.missing, "missing")))))),
    commonEdges ? makeEdgeLists() : null,
  ].filter((part) => part !== null));
  byId("known").hidden = false;
}

function swatchOf(role) {
  const place = knownRoles.indexOf(role);
  return place < 0 ? null : make("span", { class: `swatch role-${place % 8}`, "aria-hidden": "true" });
}

function tell(what, of) {
  const ranked = of.auc === null ? "" : ` By score they are ranked with ROC AUC ${show(of.auc)}.`;
  return `Of its ${of.reference.toLocaleString("en")} ${what} the circuit has ${of.common.toLocaleString("en")} (recall ${percent(of.recall)}); of the circuit's ${of.circuit.toLocaleString("en")}, ${percent(of.precision)} are known.${ranked}`;
}

function chips(names, kind) {
  const byName = new Map(nodes.map((node) => [node.name, node]));
  return make("div", { class: "chips" }, names.map((name) => byName.has(name)
    ? make("button", { type: "button", class: `chip ${kind}`, onclick: () => visit(byName.get(name).index) }, name)
    : make("span", { class: `chip ${kind}` }, name)));
}

// Opens a node from below: the graph comes into sight with it.
function visit(index) {
  change({ node: index, edge: -1, query: -1 });
  byId("explore").scrollIntoView();
  panel.focus({ preventScroll: true });
}

function makeEdgeLists() {
  return make("div", { class: "columns" }, [["common", "In both"], ["missing", "Missing here"], ["extra", "Only here"]].map(([key, title]) =>
    make("details", {}, make("summary", {}, `${title} (${page.known[key].length >= 200 ? "the first 200" : page.known[key].length})`),
      make("ul", { class: "plain" }, page.known[key].map((name) => make("li", {}, name.replace("->", "\u2192")))))));
}
