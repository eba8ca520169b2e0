"""Pictures come out of the DOT with no system graphviz and no system fonts."""

from __future__ import annotations

import os
import struct
import sys
import time

import pytest

from circuitfind.circuits.graph import Graph
from circuitfind.errors import OutputError, UsageError
from circuitfind.export import circuit_to_dot, render
from circuitfind.export.formats import picture

MAGIC = {"svg": b"<?xml", "png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-"}


@pytest.fixture
def dot(grow):
    return circuit_to_dot(grow(Graph(4, 4), 20))


@pytest.fixture
def no_program(monkeypatch):
    monkeypatch.setattr(picture.shutil, "which", lambda _: None)


@pytest.mark.parametrize("format", MAGIC)
def test_every_format_is_drawn_without_the_dot_program(format, dot, no_program, capfd):
    drawn = render(dot, format)
    assert drawn.startswith(MAGIC[format]) and len(drawn) > 8000
    assert capfd.readouterr() == ("", "")


def test_the_same_text_gives_the_same_bytes_a_second_later(dot, no_program):
    first = {format: render(dot, format) for format in MAGIC}
    time.sleep(1.1)
    assert {format: render(dot, format) for format in MAGIC} == first


@pytest.mark.parametrize("system", ["", '<include ignore_missing="yes">/etc/fonts/fonts.conf</include>'])
def test_the_pdf_is_set_in_the_shipped_font_whatever_fonts_the_system_has(
    system, dot, no_program, monkeypatch
):
    shipped = '<include ignore_missing="yes">/etc/fonts/fonts.conf</include>'
    assert shipped in picture._FONTS
    monkeypatch.setattr(picture, "_FONTS", picture._FONTS.replace(shipped, system))
    drawn = render(dot, "pdf")
    assert b"+SourceSansPro-Regular" in drawn and b"DejaVu" not in drawn


def test_drawing_leaves_nothing_beside_the_font(dot, no_program):
    render(dot, "pdf")
    assert {file.suffix for file in picture.FONT.parent.iterdir()} == {".ttf", ".txt"}


def test_a_png_shows_its_labels(no_program):
    one, other = (
        render(
            f'digraph {{ a [label="{label}", fixedsize=true, fontname="Source Sans Pro", pos="9,9"] }}',
            "png",
        )
        for label in ("m", " ")
    )
    assert struct.unpack(">II", one[16:24]) == struct.unpack(">II", other[16:24])
    assert len(one) > len(other) + 100


def test_what_graphviz_cannot_read_is_an_error_with_its_reason(no_program, capfd):
    with pytest.raises(OutputError, match=r"could not draw the svg: .+\n.*--format dot"):
        render("digraph {", "svg")
    assert capfd.readouterr() == ("", "")


def test_a_graphviz_that_hangs_is_an_error(dot, no_program, monkeypatch):
    monkeypatch.setattr(picture, "SECONDS", 0.2)
    monkeypatch.setattr(picture, "_DRAW", "import time; time.sleep(60)")
    with pytest.raises(OutputError, match=r"could not draw the svg: it took longer than 0\.2 seconds\."):
        render(dot, "svg")


def test_an_unknown_picture_format_suggests_the_nearest(dot):
    with pytest.raises(UsageError, match=r"No picture format named 'pgn'\. Did you mean 'png'\?"):
        render(dot, "pgn")


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for dot is a script")
@pytest.mark.parametrize(
    ("does", "starts"),
    [("sys.stdout.write('from dot ' + sys.argv[1])", b"from dot -Tsvg"), ("sys.exit(1)", b"<?xml")],
)
def test_the_dot_program_draws_where_it_can(does, starts, dot, tmp_path, monkeypatch):
    program = tmp_path / "dot"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.stdin.read()\n{does}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert render(dot, "svg").startswith(starts)
