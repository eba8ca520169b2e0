"""The workflow of docs/ci.md, run as far as it can be here: its check, in a checkout that has a circuit."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from circuitfind.cli.app import call

ROOT = Path(__file__).parent.parent
KNOWN = ROOT / "results" / "known"


def workflow() -> dict[str, Any]:
    (text,) = re.findall(
        r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "ci.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return yaml.safe_load(text)


def test_the_workflow_installs_checks_and_keeps_the_report_whatever_comes_out() -> None:
    (job,) = workflow()["jobs"].values()
    named = {step.get("name", step.get("uses")): step for step in job["steps"]}
    assert named["install"]["run"] == "pip install circuitfind"
    upload = named["actions/upload-artifact@v4"]
    assert upload["if"] == "always()"
    assert upload["with"]["path"] in named["check"]["run"]


@pytest.mark.parametrize("drifts", [False, True])
def test_its_check_is_green_while_the_circuit_holds_and_red_with_an_annotation_when_it_drifts(
    tmp_path: Path, drifts: bool
) -> None:
    (job,) = workflow()["jobs"].values()
    (command,) = [step["run"] for step in job["steps"] if step.get("name") == "check"]
    folder = tmp_path / "circuits" / "ioi"
    folder.mkdir(parents=True)
    text = (KNOWN / "tiny-ioi.json").read_text(encoding="utf-8")
    stored = re.search(r'"circuit": {"kl": ([\d.e-]+)', text)
    assert stored is not None
    (folder / "circuit.json").write_text(
        text.replace(stored[1], "-1.0") if drifts else text, encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "circuitfind", *shlex.split(command)[1:], "--evaluate-only"],
        cwd=tmp_path,
        env=os.environ | {"GITHUB_ACTIONS": "true", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == int(drifts), done.stderr
    assert ("::error file=circuits/ioi" in done.stderr) is drifts
    suite = ElementTree.fromstring((tmp_path / "circuits.xml").read_text(encoding="utf-8"))
    assert (suite.get("tests"), suite.get("failures")) == ("1", str(int(drifts)))


def test_the_circuits_of_tiny_that_this_project_has_established_still_hold(tmp_path: Path) -> None:
    files = sorted(KNOWN.glob("tiny-*.json"))
    assert files
    exact = "jaccard=1,heads=1,kl=1e-6,faithfulness=1e-6,accuracy=0"
    assert call(["check", *map(str, files), "--tolerance", exact, "-q"], debug=False) == 0


@pytest.mark.slow
def test_the_circuits_of_the_pretrained_model_that_this_project_has_established_still_hold() -> None:
    files = sorted(file for file in KNOWN.glob("*.json") if not file.name.startswith("tiny-"))
    assert files
    assert call(["models", "pull", "smollm2-135m"], debug=False) == 0  # no file's word fetches it
    assert call(["check", *map(str, files), "--evaluate-only", "-q"], debug=False) == 0
    (quickest,) = [str(file) for file in files if "greater-than" in file.name]
    assert call(["check", quickest, "-q"], debug=False) == 0
