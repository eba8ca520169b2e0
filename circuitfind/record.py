"""run.json: the record of the run that a circuit comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from circuitfind.circuit import Circuit

RUN_FILE = "run.json"


def read_record(folder: Path, circuit: Circuit) -> dict[str, Any]:
    """run.json beside a circuit that is that run's; else nothing."""
    file = folder / RUN_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_its = isinstance(record, dict) and record.get("model_sha256") == circuit.model.get("sha256")
    return record if is_its and isinstance(record.get("command"), dict) else {}
