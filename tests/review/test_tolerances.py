"""What a known circuit is compared with, and how a verdict is told."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitfind.errors import UsageError
from circuitfind.review.ci_report import junit, lines_of, tally, workflow_commands
from circuitfind.review.tolerances import (
    Tolerances,
    Verdict,
    at_least,
    exit_code,
    falls_by,
    parse_tolerances,
    rises_by,
    stays,
)

DRIFTED = Verdict(
    Path("known/ioi,v1:a.json"),
    "drifted",
    (falls_by("accuracy", 1.0, 0.95, 0.1), rises_by("kl", 0.2, 0.9, 0.1)),
    ("2 edges lost\nof 10",),
    seconds=1.5,
)
BROKEN = Verdict(Path("known/b.json"), "could not run", reason="it is 100% not JSON")
SOUND = Verdict(Path("known/c.json"), "holds", (at_least("edges", 1.0, 0.8),))


@pytest.mark.parametrize(
    ("finding", "holds"),
    [
        (falls_by("accuracy", 1.0, 0.9, 0.1), True),  # by as much as it may
        (falls_by("accuracy", 1.0, 0.89, 0.1), False),
        (falls_by("accuracy", 0.5, 1.0, 0.0), True),  # better is no failure
        (rises_by("kl", 0.2, 0.31, 0.1), False),
        (rises_by("kl", 0.2, 0.1, 0.0), True),
        (rises_by("kl", None, 0.1, 0.0), True),  # nothing is stored that it could differ from
        (at_least("edges", 0.8, 0.8), True),
        (at_least("edges", 0.79, 0.8), False),
        (stays("faithfulness", 0.8, 0.85, 0.1), True),
        (stays("faithfulness", 0.8, 1.0, 0.1), False),  # too good is another circuit's behaviour
        (stays("faithfulness", 0.8, 0.5, 0.1), False),
        (stays("faithfulness", 0.8, 0.5, 0.1, [((0.4, 0.9), 0.5)]), True),  # noise of the stored prompts
        (
            stays("faithfulness", 0.8, 0.5, 0.1, [(None, 0.5), ((0.3, 0.9), 0.8)]),
            True,
        ),  # of the present ones
        (stays("faithfulness", 0.8, 0.5, 0.1, [((0.6, 0.9), 0.5), ((0.4, 0.6), 0.8)]), False),
        (
            stays("faithfulness", 0.8, 0.0, 0.1, [((-0.4, 0.9), 0.0), ((0.0, 0.0), 0.8)]),
            False,
        ),  # of few prompts
        (stays("faithfulness", 0.8, None, 0.1), False),  # there is nothing left to be faithful to
        (stays("faithfulness", None, None, 0.1), True),
    ],
)
def test_a_number_holds_within_its_tolerance_and_within_noise(finding, holds) -> None:
    assert finding.holds is holds


def test_tolerances_are_read_from_the_line() -> None:
    assert parse_tolerances(["jaccard=0.9, kl=0.05", "Heads=1"]) == {
        "jaccard": 0.9,
        "kl": 0.05,
        "heads": 1.0,
    }
    assert Tolerances().with_values({"jaccard": 0.9}).jaccard == 0.9


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["jaccard"], "it must be NAME=NUMBER"),
        (["jaccard=high"], "it must be NAME=NUMBER"),
        (["jacard=0.9"], "No tolerance named 'jacard'. Did you mean 'jaccard'"),
        (["jaccard=1.2"], r"The tolerance of jaccard is 1.2; it must be a number from 0 to 1"),
        (["kl=-0.1"], r"The tolerance of kl is -0.1; it must be a number from 0 up"),
        (["kl=nan"], "The tolerance of kl is nan"),
    ],
)
def test_a_tolerance_that_makes_no_sense_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Tolerances().with_values(parse_tolerances(texts))


def test_the_worst_verdict_decides() -> None:
    assert [exit_code(v) for v in ([], [SOUND], [SOUND, DRIFTED], [BROKEN, DRIFTED])] == [0, 0, 1, 2]
    assert tally([SOUND, SOUND, DRIFTED, BROKEN]) == "2 hold, 1 drifted, 1 could not run"


def test_a_person_is_told_what_is_off_first() -> None:
    lines = list(lines_of(DRIFTED))
    assert lines[0].endswith("drifted")
    assert lines[1].strip().startswith("NOT kl: 0.2 stored, 0.9 now")
    assert lines[2].strip().startswith("ok  accuracy")
    assert list(lines_of(BROKEN)) == ["known/b.json: could not run: it is 100% not JSON"]


def test_junit_has_a_case_a_circuit_a_failure_where_it_drifted_and_an_error_where_it_could_not_run() -> (
    None
):
    suite = ElementTree.fromstring(junit([SOUND, DRIFTED, BROKEN]))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    assert cases == {"known/c.json": [], "known/ioi,v1:a.json": ["failure"], "known/b.json": ["error"]}
    assert "kl: 0.2 stored" in (suite[1][0].text or "")


@given(st.text(max_size=40))
def test_no_text_breaks_the_xml(text: str) -> None:
    verdict = Verdict(Path("a.json"), "drifted", reason=text.encode("utf-8", "replace").decode())
    ElementTree.fromstring(junit([verdict]).encode())


def test_github_is_told_on_one_line_with_nothing_that_ends_it_early() -> None:
    (command,) = workflow_commands([SOUND, DRIFTED])
    assert command.startswith("::error file=known/ioi%2Cv1%3Aa.json,title=circuit drifted::")
    assert "\n" not in command
    assert "%0A" in command
    assert "100%25 not JSON" in next(iter(workflow_commands([BROKEN])))
    hostile = Verdict(Path("a\r\n::error::.json"), "drifted", reason="x\r\n::stop-commands::t\x1b[31m")
    (command,) = workflow_commands([hostile])
    assert not {"\r", "\n", "\x1b"} & {*command}
    assert command.count("::error") == 1
