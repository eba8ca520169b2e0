// What a node writes to the logits of the right and the wrong answer, as bars around zero.

function makeWrites(node) {
  if (!observed || node.kind === "logits" || !observed.writes[node.index]) return null;
  const values = observed.writes[node.index][state.pair], prompt = page.prompts[state.pair];
  const [answer, wrong, answerCorrupted, wrongCorrupted] = values;
  const right = nameAnswers(prompt.answers), other = wrong === null ? null : nameAnswers(prompt.wrong);
  const rows = [["clean", right, answer, "answer"], ["clean", other, wrong, "wrong"], ["corrupted", right, answerCorrupted, "answer"], ["corrupted", other, wrongCorrupted, "wrong"]]
    .filter((row) => row[2] !== null);
  const most = Math.max(...rows.map((row) => Math.abs(row[2])), 1e-9);
  return make("section", { class: "writes", id: "writes" },
    make("h3", {}, "What it writes to the logits"),
    node.kind === "head" ? null : make("div", { class: "row" }, makePairChoice()),
    make("div", { class: "bars" }, rows.map((row) => makeBar(row, most))),
    wrong === null ? null : make("p", { class: "gap" }, "answer \u2212 wrong answer: ", make("b", {}, signed(answer - wrong)), ` clean, ${signed(answerCorrupted - wrongCorrupted)} corrupted`),
    make("p", { class: "hint" }, `Direct effect in logits above the vocabulary's mean, at the answer position, through the final norm at the clean run's scale. All parts together: ${signed(observed.logits[state.pair][0])}${wrong === null ? "" : ` and ${signed(observed.logits[state.pair][1])}`} (clean).`));
}

// What the mean over answers is called: one answer by itself, several by how many they are, all of them on hovering.
function nameAnswers(answers) {
  const words = answers.map(word), shown = words.slice(0, 12).join(", ") + (words.length > 12 ? ", \u2026" : "");
  return { short: words.length === 1 ? words[0] : `mean of ${words.length}`, all: shown };
}

function makeBar([run, name, value, kind], most) {
  const width = 46 * Math.abs(value) / most;
  const bar = makeSvg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true", class: kind },
    makeSvg("rect", { x: value < 0 ? 50 - width : 50, y: 1, width, height: 8 }),
    makeSvg("line", { x1: 50, x2: 50, y1: 0, y2: 10 }));
  return make("div", { class: `bar ${run}` }, make("span", { class: "of" }, run), make("span", { class: "what", title: name.all }, name.short), bar, make("span", { class: "number" }, signed(value)));
}

function signed(value) {
  return (value > 0 ? "+" : "") + show(value);
}
