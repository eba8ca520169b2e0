"""Verdicts for people, for CI systems (JUnit's XML) and for GitHub's pages (workflow commands)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from circuitfind.files.printable import printable
from circuitfind.review.tolerances import Verdict

SUITE = "circuitfind check"
"""The name of JUnit's test suite, by which a report is known as one of this command's."""


def lines_of(verdict: Verdict) -> Iterator[str]:
    """One verdict for a person: what is worst first."""
    yield verdict.headline if not verdict.findings else f"{verdict.circuit}: {verdict.status}"
    for finding in sorted(verdict.findings, key=lambda finding: finding.holds):
        yield f"  {'ok ' if finding.holds else 'NOT'} {finding.line}"
    for detail in verdict.details:
        yield f"      {detail}"


def tally(verdicts: Sequence[Verdict]) -> str:
    """How many hold, in one line."""
    counts = {
        status: sum(v.status == status for v in verdicts)
        for status in ("holds", "drifted", "could not run")
    }
    said = [
        f"{n} {'hold' if status == 'holds' and n != 1 else status}" for status, n in counts.items() if n
    ]
    return ", ".join(said)


def junit(verdicts: Sequence[Verdict]) -> str:
    """A test suite in JUnit's format: a case a circuit, a failure where it drifted, an error where
    it could not run.
    """
    count = {status: sum(v.status == status for v in verdicts) for status in ("drifted", "could not run")}
    suite = ElementTree.Element(
        "testsuite",
        name=SUITE,
        tests=str(len(verdicts)),
        failures=str(count["drifted"]),
        errors=str(count["could not run"]),
        time=f"{sum(v.seconds for v in verdicts):.3f}",
    )
    for verdict in verdicts:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname="circuitfind",
            name=_clean(str(verdict.circuit)),
            time=f"{verdict.seconds:.3f}",
        )
        if verdict.status != "holds":
            kind = "failure" if verdict.status == "drifted" else "error"
            said = ElementTree.SubElement(
                case, kind, message=_clean(verdict.headline), type=verdict.status
            )
            said.text = _clean("\n".join(lines_of(verdict)))
    ElementTree.indent(suite)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        + ElementTree.tostring(suite, encoding="unicode")
        + "\n"
    )


def workflow_commands(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """GitHub's workflow commands, one for each circuit that does not hold.

    https://docs.github.com/actions/reference/workflow-commands-for-github-actions
    """
    for verdict in verdicts:
        if verdict.status != "holds":
            title = f"circuit {verdict.status}"
            text = "\n".join(lines_of(verdict))
            yield f"::error file={_property(str(verdict.circuit))},title={_property(title)}::{_message(text)}"


def _message(text: str) -> str:
    """The text on one line, as GitHub escapes it."""
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def _clean(text: str) -> str:
    """Without what no XML may hold."""
    return "".join(
        letter
        for letter in text
        if letter in "\t\n\r" or (letter >= " " and letter not in "\ufffe\uffff")
    )
