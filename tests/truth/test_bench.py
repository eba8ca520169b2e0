"""``circuitfind bench truth``: what AUROC is, what is asked of each method, and what comes out."""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuitfind.cli.app import call
from circuitfind.methods.catalogue import CATALOGUE
from circuitfind.truth.bench import N_THRESHOLDS, count_thresholds, edge_auroc, load_question, options_of
from circuitfind.truth.known import choose_models, known_models

SCORES = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12).filter(
    lambda edges: len({is_true for _, is_true in edges}) == 2
)


@given(SCORES)
def test_auroc_is_how_often_a_true_edge_beats_another_and_ties_count_half(
    edges: list[tuple[int, bool]],
) -> None:
    true, false = ([abs(score) for score, is_true in edges if is_true is kind] for kind in (True, False))
    wins = sum((t > f) + (t == f) / 2 for t in true for f in false)
    scores = torch.tensor([[float(score) for score, _ in edges] + [torch.nan]], dtype=torch.float64)
    truth = torch.tensor([[is_true for _, is_true in edges] + [False]])
    assert edge_auroc(scores, truth) == pytest.approx(wins / len(true) / len(false))


@pytest.mark.slow
def test_acdc_counts_thresholds_and_keeps_a_true_edge_at_more_of_them() -> None:
    question = load_question(known_models()["and"])
    counts = count_thresholds(question, options_of(CATALOGUE["acdc"], question, seed=0))
    edges = ~counts.isnan()
    assert int(edges.sum()) == 110 and counts[edges].max() <= N_THRESHOLDS
    assert counts[question.truth].min() > counts[edges & ~question.truth].max()


def test_every_method_is_asked_what_it_takes_and_none_is_told_the_answer() -> None:
    question = load_question(known_models()["or"])
    options = {name: options_of(info, question, seed=3) for name, info in CATALOGUE.items()}
    assert {name for name, asked in options.items() if asked.metric == "kl"} >= {
        "acdc",
        "eap-ig",
        "exact",
    }
    assert {options[name].metric for name in ("eap", "atp", "relp", "gim", "hisp")} == {"logit-diff"}
    assert {(asked.edges, asked.seed) for asked in options.values()} == {(None, 3)}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert call(["bench", "truth", "--quiet", *arguments], debug=False) == 0
    return capsys.readouterr().out


TWO = ("--models", "and,frac-prevs", "--methods", "acdc,eap-ig,random")


def test_two_models_make_a_row_a_method_with_the_median(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run(capsys, *TWO, "--json"))
    assert [(model["name"], model["n_true"], model["n_edges"]) for model in document["models"]] == [
        ("and", 5, 110),
        ("frac-prevs", 4, 110),
    ]
    rows = {row["name"]: row for row in document["methods"]}
    assert list(rows) == ["acdc", "eap-ig", "random"]
    for row in rows.values():
        scores = [one["auroc"] for one in row["models"].values()]
        assert row["median_auroc"] == statistics.median(scores) and all(
            0 <= score <= 1 for score in scores
        )
        assert (
            row["seconds"] == pytest.approx(sum(one["seconds"] for one in row["models"].values()))
            and row["seconds"]
        )
    assert rows["acdc"]["median_auroc"] >= 0.95 and rows["eap-ig"]["median_auroc"] >= 0.9
    assert (rows["acdc"]["metric"], rows["random"]["metric"]) == ("kl", None)


def test_the_seed_draws_another_random_order_and_nothing_else_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def scores(*arguments: str) -> dict[str, float]:
        chosen = ("--models", "and", "--methods", "eap-ig,random", "--json")
        rows: list[dict[str, Any]] = json.loads(run(capsys, *chosen, *arguments))["methods"]
        return {row["name"]: row["median_auroc"] for row in rows}

    first, again, other = scores(), scores(), scores("--seed", "1")
    assert first == again and first["eap-ig"] == other["eap-ig"] and first["random"] != other["random"]


def test_a_terminal_gets_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(capsys, "--models", "and", "--methods", "random").splitlines()
    assert [line.split("\t")[0] for line in plain] == ["method", "true edges", "random"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    table = run(capsys, "--models", "and", "--methods", "random")
    assert all(cell in table for cell in (*plain[0].split("\t"), "5/110")) and "\t" not in table


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--methods", "eap-igg"), "No method named 'eap-igg'. Did you mean 'eap-ig'?"),
        (("--models", "srot"), "No model named 'srot'. Did you mean 'sort'?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["bench", "truth", *arguments], debug=False) == 2
    written = capsys.readouterr()
    assert written.out == "" and says in written.err and len(written.err.splitlines()) == 1


def test_all_models_are_chosen_where_none_is_named() -> None:
    assert [known.name for known in choose_models(())] == sorted(known_models())


@pytest.mark.slow
def test_acdc_and_eap_ig_reach_their_bars_over_all_models(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run(capsys, "--json"))
    medians = {row["name"]: row["median_auroc"] for row in document["methods"]}
    assert set(medians) == set(CATALOGUE)
    assert medians["acdc"] >= 0.95 and medians["eap-ig"] >= 0.90
    assert 0.2 < medians["random"] < 0.8
