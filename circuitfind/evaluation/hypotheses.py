"""Tests of what a circuit claims: "Hypothesis Testing the Circuit Hypothesis in LLMs" (Shi et al.,
arXiv:2410.13032).

M is the full model, C the circuit, s_i(A) the metric of prompt i under the edges A with its sign
turned where less is better, d(A) = mean_i |s_i(A) - s_i(M)| how far from the model a run is. What
is tested, at edge level:

- **Equivalence.** Null: |P(s(C) > s(M)) - 1/2| <= epsilon, over prompts. p:
  ``statistics.share_differs`` of the prompts that C wins. Prompts on which both are exactly equal
  are left out; where none is left, p = 1.
- **Independence.** Null: s(M \\ C) is independent of s(M), over prompts. HSIC, by permutation of
  prompts.
- **Minimality.** Null for each edge e of C: P(D(C, e) > D(C+, r)) >= quantile. D(A, e) = mean_i
  |s_i(A) - s_i(A \\ e)|; C+ is C with a random path of edges outside of C, r a random edge of that
  path. Binomial, Holm over the edges; the null of the whole circuit is that of all its edges, and
  its p value the least corrected one.
- **Sufficiency.** Null: P(d(C) < d(R)) <= quantile, R unions of random paths through the model with
  at least as many edges as C. Binomial.
- **Partial necessity.** Null: P(d(M \\ C) > d(M \\ R)) <= quantile, R likewise, of paths outside of
  C. Binomial.

To reject one of the first three speaks against the circuit, not to reject it proves nothing; to
reject one of the last two speaks for it. KL is a distance from M and no score, under which M would
win always: equivalence and independence then look at the loss. The paper's own software
(blei-lab/circuitry) differs in that it squares the differences of d and D, takes the mean
difference of the scores for the share of prompts that C wins, gives both variables of HSIC one
kernel width, corrects for no number of edges, and draws R for partial necessity from the whole
model unless told otherwise.

p values are corrected (Holm) for the number of tests that were run. A test that cannot be run says
why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from circuitfind.circuits.draws import Draw
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.evaluation.meter import Meter, count_of, mean_change, values_of
from circuitfind.evaluation.minimality import edges_of, leave_out
from circuitfind.evaluation.options import HypothesisOptions
from circuitfind.evaluation.performance import Performance
from circuitfind.evaluation.randoms import Paths
from circuitfind.evaluation.statistics import (
    Values,
    dependence,
    holm,
    share_differs,
    wins_less_often,
    wins_more_often,
)
from circuitfind.evaluation.trials import Kept, Trials
from circuitfind.evaluation.work import ALONE, DENSE, GROWN, PART, Phase, count
from circuitfind.metrics.measures import HIGHER_IS_BETTER, MetricName
from circuitfind.progress import Progress


@dataclass(frozen=True)
class EdgeTest:
    """One edge of the minimality test: what leaving it out changes, how many random edges change
    less, and p.
    """

    edge: Edge
    change: float
    wins: int
    p_value: float
    corrected: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "change": self.change,
            "wins": self.wins,
            "p_value": self.p_value,
            "corrected_p_value": self.corrected,
        }


@dataclass(frozen=True)
class Outcome:
    """Of one test. ``n``: prompts or random draws that it rests on.

    ``effect_size`` is that which ``effect`` says. ``rejected_says`` and ``kept_says``: what follows
    where the null is rejected, and what was not shown where it is not. ``why_not``: why it was not
    run; then it has no numbers.
    """

    name: str
    metric: MetricName
    null: str
    effect: str
    rejected_says: str
    kept_says: str
    seed: int
    alpha: float
    n: int = 0
    statistic: float | None = None
    effect_size: float | None = None
    p_value: float | None = None
    corrected: float | None = None
    edges: tuple[EdgeTest, ...] = ()
    why_not: str = ""

    @property
    def rejected(self) -> bool | None:
        """Whether the null is rejected at the level alpha after correction; None if the test was not run."""
        return None if self.corrected is None else self.corrected <= self.alpha

    @property
    def sentence(self) -> str:
        """What was and what was not rejected."""
        name = self.name.capitalize()
        if self.corrected is None:
            return f"{name}: not run, {self.why_not}."
        verdict = "rejected" if self.rejected else "not rejected"
        says = self.rejected_says if self.rejected else self.kept_says
        return f"{name}: that {self.null} is {verdict} (corrected p = {self.corrected:.3g}): {says}."

    def to_dict(self) -> dict[str, Any]:
        found = {
            "name": self.name,
            "metric": self.metric,
            "null": self.null,
            "statistic": self.statistic,
            "effect": self.effect,
            "effect_size": self.effect_size,
            "p_value": self.p_value,
            "corrected_p_value": self.corrected,
            "n": self.n,
            "seed": self.seed,
            "alpha": self.alpha,
            "rejected": self.rejected,
            "sentence": self.sentence,
        }
        return {**found, "edges": {str(e.edge): e.to_dict() for e in self.edges}} if self.edges else found


@dataclass(frozen=True)
class Hypotheses:
    """The five tests in order: equivalence, independence, minimality, sufficiency, partial necessity."""

    options: HypothesisOptions
    tests: tuple[Outcome, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "epsilon": self.options.epsilon,
            "quantile": self.options.quantile,
            "alpha": self.options.alpha,
            "seed": self.options.seed,
            "correction": "holm",
            "tests": [test.to_dict() for test in self.tests],
        }

    def lines(self) -> list[str]:
        return [test.sentence for test in self.tests]


def score_of(metric: MetricName) -> MetricName:
    """What equivalence and independence compare: the metric, but the loss for KL."""
    return "loss" if metric == "kl" else metric


def phases(
    graph: Graph, kept: Kept, options: HypothesisOptions, are_known: bool = False
) -> tuple[Phase, ...]:
    """The runs that ``run_tests`` takes, in its order; fewer where a test cannot be run.
    ``are_known``: those without an edge have been made for another judgement."""
    n_edges, n = min(options.most, int(kept.sum())), options.n_random
    edges = (Phase(1 + n_edges, 0.0 if are_known else PART), Phase(2 * n, GROWN))
    return (Phase(2, DENSE), Phase(2, ALONE), *edges, Phase(n, ALONE), Phase(1 + n, DENSE))


def n_runs(graph: Graph, kept: Kept, options: HypothesisOptions) -> int:
    """The most runs that ``run_tests`` takes."""
    return count(phases(graph, kept, options))


def run_tests(
    trials: Trials, kept: Kept, metric: MetricName, options: HypothesisOptions, progress: Progress
) -> Hypotheses:
    """Of the circuit of the ``kept`` edges, in at most ``n_runs`` runs.

    Raises UsageError where a prompt has no value of the metric.
    """
    are_known = trials.knows(kept, draw_parts(trials.graph, kept, options).values(), (metric,))
    meter = Meter(trials, metric, phases(trials.graph, kept, options, are_known), progress)
    bench = Bench(meter, kept, options)
    tests = (
        judge_equivalence(bench.scores(bench.circuit), bench.scores(trials.full), bench.score, options),
        judge_independence(
            bench.scores(bench.complement), bench.scores(trials.full), bench.score, options
        ),
        bench.judge_minimality(),
        bench.judge_sufficiency(),
        bench.judge_partial_necessity(),
    )
    meter.finish()
    return Hypotheses(options, correct_together(tests))


def draw_parts(
    graph: Graph, kept: Kept, options: HypothesisOptions, draw: Draw | None = None
) -> dict[Edge, Kept]:
    """The circuit without each of its edges that are tested for minimality: all, or the first of
    the draws.
    """
    edges, draw = edges_of(graph, kept), draw or Draw(options.seed)
    return {edges[i]: leave_out(graph, kept, edges[i]) for i in draw.some(len(edges), options.most)}


def correct_together(tests: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """Each with its p value corrected for the number of those that were run."""
    corrected = iter(holm([test.p_value for test in tests if test.p_value is not None]))
    return tuple(
        test if test.p_value is None else replace(test, corrected=next(corrected)) for test in tests
    )


def judge_equivalence(
    circuit: Values, model: Values, metric: MetricName, options: HypothesisOptions
) -> Outcome:
    """Of each prompt's score in the circuit and in the full model, more being better. Not corrected yet."""
    wins, losses = (
        sum(x > y for x, y in zip(*pair, strict=True)) for pair in ((circuit, model), (model, circuit))
    )
    n = wins + losses
    share = wins / n if n else 0.5
    return Outcome(
        "equivalence",
        metric,
        f"circuit and model win equally often, to within {options.epsilon:g}, over prompts",
        "share of prompts that the circuit wins, less 1/2",
        f"the circuit wins {wins} of {n} prompts, so it is not equivalent to the model",
        f"the circuit wins {wins} of {n} prompts, which does not prove it equivalent",
        options.seed,
        options.alpha,
        n,
        share,
        share - 0.5,
        share_differs(wins, n, options.epsilon),
    )


def judge_independence(
    complement: Values, model: Values, metric: MetricName, options: HypothesisOptions
) -> Outcome:
    """Of each prompt's score without the circuit's edges and in the full model. Not corrected yet."""
    outcome = Outcome(
        "independence",
        metric,
        "complement and model score independently of each other over prompts",
        "normalised HSIC, 0 to 1",
        "what the circuit leaves out still follows the model's behaviour",
        "no trace of the behaviour was found outside of the circuit, which does not prove that there is"
        " none",
        options.seed,
        options.alpha,
    )
    if len(model) < 2:
        return replace(outcome, why_not="it needs two prompts or more")
    hsic, size, p = dependence(complement, model, options.n_permutations, options.seed)
    return replace(outcome, n=len(model), statistic=hsic, effect_size=size, p_value=p)


def judge_edges(changes: dict[Edge, float], by_chance: Values, quantile: float) -> tuple[EdgeTest, ...]:
    """Each edge's change against those of random edges, corrected for the number of edges."""
    wins = [sum(change > other for other in by_chance) for change in changes.values()]
    p_values = [wins_less_often(w, len(by_chance), quantile) for w in wins]
    rows = zip(changes.items(), wins, p_values, holm(p_values), strict=True)
    return tuple(EdgeTest(edge, change, w, p, corrected) for (edge, change), w, p, corrected in rows)


class Bench:
    """What the tests of one circuit have in common."""

    def __init__(self, meter: Meter, kept: Kept, options: HypothesisOptions) -> None:
        self._meter, self._kept, self._options = meter, kept, options
        self._graph, self._edges = meter.trials.graph, meter.trials.edges
        self._n_edges = int(kept.sum())
        self.score = score_of(meter.metric)
        names = sorted({meter.metric, self.score})
        meter.settle(self._edges)
        self.complement = meter.run(self._edges & ~kept, names)
        meter.settle(kept)
        self.circuit = meter.run(kept, names)

    def scores(self, performance: Performance) -> tuple[float, ...]:
        """Each prompt's score, more being better."""
        values = values_of(performance, self.score)
        return values if self.score in HIGHER_IS_BETTER else tuple(-value for value in values)

    def judge_minimality(self) -> Outcome:
        """A sample of the edges where there are more than ``most``."""
        options, draw = self._options, Draw(self._options.seed)
        outside = Paths(self._graph, self._edges & ~self._kept)
        parts = draw_parts(self._graph, self._kept, options, draw)
        outcome = self._outcome(
            "minimality",
            f"each edge changes the metric more than {options.quantile:.0%} of random edges do",
            "share of the tested edges that are needless",
        )
        if not parts or not len(outside):
            reason = "no path lies outside of the circuit" if parts else "the circuit has no edge"
            return replace(outcome, why_not=reason)
        whole, *without = self._meter.values_within(self._kept, [self._kept, *parts.values()])
        changes = {edge: mean_change(whole, values) for edge, values in zip(parts, without, strict=True)}
        tests = judge_edges(
            changes, [self._inflate(outside, draw) for _ in range(options.n_random)], options.quantile
        )
        n_needless = sum(test.corrected <= options.alpha for test in tests)
        found = (
            f"{n_needless:,} of {count_of(len(tests), self._n_edges, 'edges')} matter less than random"
            " ones"
        )
        return replace(
            outcome,
            rejected_says=f"{found}, so the circuit is not minimal",
            kept_says=f"{found}, which does not prove that the others are needed",
            n=options.n_random,
            statistic=float(n_needless),
            effect_size=n_needless / len(tests),
            p_value=min(test.corrected for test in tests),
            edges=tests,
        )

    def judge_sufficiency(self) -> Outcome:
        """Against random circuits of the whole model."""
        outcome = self._outcome(
            "sufficiency",
            f"the circuit is nearer to the model than at most {self._options.quantile:.0%} of random"
            " circuits",
            "share of random circuits that are farther from the model",
        )
        own = self._distance(self.circuit)
        paths, n = Paths(self._graph, self._edges), self._options.n_random
        draw = Draw(self._options.seed)
        others = [
            self._distance(self._meter.run(paths.draw(self._n_edges, draw), self._names))
            for _ in range(n)
        ]
        wins = sum(own < other for other in others)
        return self._weigh(
            outcome, wins, "more faithful than", "the circuit was not shown to be sufficient"
        )

    def judge_partial_necessity(self) -> Outcome:
        """Against random circuits from outside of the circuit."""
        outcome = self._outcome(
            "partial necessity",
            f"its knock-out hurts more than that of at most {self._options.quantile:.0%} of random"
            " circuits outside",
            "share of random circuits whose knock-out changes less",
        )
        paths, n = Paths(self._graph, self._edges & ~self._kept), self._options.n_random
        if len(paths) < self._n_edges or not self._n_edges:
            reason = (
                "as many edges do not lie outside of it" if self._n_edges else "the circuit has no edge"
            )
            return replace(outcome, why_not=reason)
        draw = Draw(self._options.seed)
        self._meter.settle(self._edges)
        own = self._distance(self.complement)
        circuits = (paths.draw(self._n_edges, draw) for _ in range(n))
        others = [
            self._distance(self._meter.run(self._edges & ~drawn, self._names)) for drawn in circuits
        ]
        wins = sum(own > other for other in others)
        return self._weigh(
            outcome, wins, "its knock-out hurts more than that of", "it was not shown to be necessary"
        )

    @property
    def _names(self) -> tuple[str, ...]:
        return (self._meter.metric,)

    def _outcome(self, name: str, null: str, effect: str) -> Outcome:
        return Outcome(
            name, self._meter.metric, null, effect, "", "", self._options.seed, self._options.alpha
        )

    def _weigh(self, outcome: Outcome, wins: int, how: str, otherwise: str) -> Outcome:
        n, quantile, alpha = self._options.n_random, self._options.quantile, self._options.alpha
        found = f"{how} {wins} of {n} random circuits of at least {self._n_edges:,} edges"
        too_few = "" if quantile**n <= alpha else f"; with {n} random circuits no outcome could reject it"
        return replace(
            outcome,
            rejected_says=found,
            kept_says=f"{found}, {otherwise}{too_few}",
            n=n,
            statistic=float(wins),
            effect_size=wins / n,
            p_value=wins_more_often(wins, n, quantile),
        )

    def _distance(self, performance: Performance) -> float:
        """d: how far from the full model the run is, mean over prompts of |difference|."""
        runs = (performance, self._meter.trials.full)
        return mean_change(*(values_of(run, self._meter.metric) for run in runs))

    def _inflate(self, outside: Paths, draw: Draw) -> float:
        """D of a random edge of a random path, in the circuit with that path."""
        path = outside.draw(1, draw)
        inflated, places = self._kept | path, path.nonzero().tolist()
        without = inflated.clone()
        row, sender = places[draw.below(len(places))]
        without[row, sender] = False
        return mean_change(self._meter.values(inflated), self._meter.values(without))
