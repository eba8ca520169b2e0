"""run.json: the record of the run that a circuit comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from circuitfind.circuit import Circuit
from circuitfind.circuits.folder import file_in

RUN_FILE = "run.json"
TASK_SHA256 = "task_file_sha256"
"""The key of the sha256 of the task's Python file, where it has one."""


def read_record(folder: Path, circuit: Circuit) -> dict[str, Any]:
    """run.json beside a circuit that is that run's; else nothing. Raises CircuitError for a link out of the folder."""
    try:
        file = file_in(folder, RUN_FILE)
        record = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict) or not isinstance(record.get("command"), dict):
        return {}
    return record if record.get("model_sha256") == circuit.model.get("sha256") else {}
