// The prompts, and what follows them: by the model on clean, by the circuit on clean, by the model on corrupted.

const FIRST_PROMPTS = 6; // shown at first; on paper all
const RUN_TITLES = { clean: "model, clean", circuit: "circuit, clean", corrupted: "model, corrupted" };

function buildPrompts() {
  if (!page.prompts.length) return;
  const hasRuns = page.prompts.some((prompt) => prompt.predictions);
  byId("prompts").replaceChildren(
    make("h2", { id: "prompts-title" }, "Prompts"),
    make("p", { class: "lead" }, hasRuns
      ? "The likeliest next tokens. The answer is marked; a circle tells whether it is the likeliest."
      : "Predictions, attention and writes take runs of the model: circuitfind view adds them."),
    make("ol", { class: "prompts" }, page.prompts.map(makePrompt)),
    page.prompts.length > FIRST_PROMPTS ? make("button", { type: "button", class: "more", onclick: showAllPrompts }, `All ${page.prompts.length} prompts`) : "");
  byId("prompts").hidden = false;
}

function makePrompt(prompt, place) {
  const runs = prompt.predictions ? Object.keys(RUN_TITLES).map((run) => makePrediction(run, prompt)) : [];
  return make("li", { class: place < FIRST_PROMPTS ? "prompt" : "prompt later" },
    make("div", { class: "texts" },
      make("p", { class: "clean" }, make("span", { class: "number", "aria-hidden": "true" }, place + 1), prompt.clean),
      make("p", { class: "corrupted" }, make("span", { class: "heard" }, "Corrupted: "), prompt.corrupted),
      make("p", { class: "answers" }, "answer ", make("b", {}, prompt.answers.map(word).join(", ")), prompt.wrong.length ? ", not " : "", make("b", { class: "not" }, prompt.wrong.map(word).join(", ")))),
    ...runs);
}

function showAllPrompts(event) {
  const later = [...document.querySelectorAll(".prompt.later")];
  for (const prompt of later) prompt.classList.remove("later");
  event.target.remove();
  later[0].tabIndex = -1;
  later[0].focus({ preventScroll: true });
}

function makePrediction(run, prompt) {
  const said = prompt.predictions[run];
  const isRight = prompt.answers.some((answer) => said.top.length && answer.startsWith(said.top[0][0]));
  const rows = said.top.slice(0, 3).map(([token, share]) => {
    const bar = makeSvg("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }, makeSvg("rect", { width: 100 * share, height: 4 }));
    const kind = prompt.answers.some((answer) => answer.startsWith(token)) ? "right" : prompt.wrong.some((answer) => answer.startsWith(token)) ? "wrong" : "";
    return make("li", { class: kind }, make("span", { class: "token" }, spell(token)), make("span", { class: "number" }, percent(share)), bar);
  });
  const gap = said.diff === null ? "" : `logit difference ${signed(said.diff)}`;
  return make("div", { class: `prediction ${run}` },
    make("h3", {}, make("span", { class: isRight ? "mark yes" : "mark no", role: "img", "aria-label": isRight ? "right" : "not the answer" }), RUN_TITLES[run]),
    make("ul", {}, rows),
    make("p", { class: "hint" }, gap));
}
