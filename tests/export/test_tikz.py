"""The TikZ picture. Regenerate the golden file with: REGENERATE=1 pytest tests/export/test_tikz.py"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuits.bases import Neuron, edges_among
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph
from circuitfind.errors import OutputError
from circuitfind.export import Look
from circuitfind.export.drawing.drawing import draw
from circuitfind.export.drawing.naming import identifier
from circuitfind.export.formats.latex import COMMANDS, LETTER, escape
from circuitfind.export.formats.tikz import circuit_to_tikz

GOLDEN = Path(__file__).parents[1] / "golden" / "small.tex"
EDGES = {
    "input->a0.h0<v>": 0.5,
    "input->m0": 0.02,
    "a0.h0->a1.h1<q>": 1.25,
    "a0.h0->a1.h1<k>": -0.3,
    "m0->a1.h1<v>": 0.0,
    "a1.h1->logits": 2.0,
}
NAMES = {"model": {"name": "tiny"}, "task": {"name": "50% & more"}, "method": {"name": "acdc"}}
SMALL = Circuit(Graph(2, 2), {Edge.parse(name): score for name, score in EDGES.items()}, **NAMES)
ROLES = ("S1", "a_b.c", "a_b-c", "END")
NASTY = "\\{}$&#^_~%<>|\"'`-- ,, !` ?` \u4e2d \u00e9 e\u0301 \u0142 \u017f \u0105 \u20ac \U0001f600 \u2028 [a] (b) ; :"
NASTY += "\n\t\x00"
needs_pdflatex = pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
needs_pdftotext = pytest.mark.skipif(not shutil.which("pdftotext"), reason="needs pdftotext")


def has_lualatex() -> bool:
    """The program, and Debian's texlive-luatex: without it, it has no fonts."""
    if not (shutil.which("lualatex") and shutil.which("kpsewhich")):
        return False
    return subprocess.run(["kpsewhich", "luaotfload-main.lua"], capture_output=True).returncode == 0


def of_neurons() -> Circuit:
    neurons = {
        Neuron.parse(name): score
        for name, score in {"a0.h1.d2": 0.5, "a0.h1.d3": -1.0, "m1.n7": 0.1}.items()
    }
    graph = Graph(2, 2)
    return Circuit(graph, edges_among(graph, neurons), {"d_head": 4, "d_mlp": 8}, neurons=neurons)


def of_positions() -> Circuit:
    names = ("input->a0.h0<v>@S1", "input->a0.h0<v>@a_b.c", "input->a0.h0<v>@a_b-c", "a0.h0->a1.h1<k>@S1")
    names += ("a0.h0->a1.h1<q>@END", "a1.h1->logits")
    return Circuit(Graph(2, 2, roles=ROLES), {Edge.parse(name): 1.0 for name in names})


def compile_with(program: str, source: str, folder: Path, name: str = "paper") -> str:
    """Runs LaTeX, which must neither fail nor warn; what it logs."""
    (folder / f"{name}.tex").write_text(source, encoding="utf-8")
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", f"{name}.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True)
    log = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-3000:]
    assert (folder / f"{name}.pdf").stat().st_size > 1000
    return log


def test_the_file_is_the_golden_one():
    text = circuit_to_tikz(SMALL)
    if os.environ.get("REGENERATE"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "circuit", [SMALL, of_positions(), Circuit(Graph(2, 2), {})], ids=["small", "roles", "empty"]
)
def test_every_edge_has_a_line_in_graph_order_and_every_node_a_place_of_its_own(circuit):
    text = circuit_to_tikz(circuit)
    assert re.findall(r"\\draw\[edge .* % (\S+) \S+$", text, re.MULTILINE) == [
        str(edge) for edge in circuit.edges
    ]
    boxes = draw(circuit).layout.boxes
    named = re.findall(r"\\node\[(?:input|head|mlp|logits)[^]]*\] \((\w+)\)", text)
    assert named == list(dict.fromkeys(named)) and set(named) == {
        identifier(circuit.graph, node) for node in boxes
    }


def test_of_too_many_edges_the_strongest_are_drawn(grow):
    text = circuit_to_tikz(grow(Graph(12, 12), 300), Look(most_edges=50))
    assert len(re.findall(r"\\draw\[edge", text)) == 50 and "the 50 strongest" in text


def test_a_node_says_how_many_neurons_it_keeps():
    text = circuit_to_tikz(of_neurons())
    assert (
        re.search(r"\{a0\.h1.*2 of 4", text)
        and re.search(r"\{m1.*1 of 8", text)
        and r"\draw[edge" not in text
    )


def test_a_picture_too_wide_for_tex_is_refused():
    roles = tuple(f"r{number}" for number in range(150))
    edges = {Edge.parse(f"input->m0@{role}"): 1.0 for role in roles}
    circuit = Circuit(Graph(1, 1, roles=(*roles, "END")), edges)
    with pytest.raises(OutputError, match=r"in TeX lengths end at 14,000\.\nExport svg or pdf"):
        circuit_to_tikz(circuit)


@given(st.text() | st.text(st.sampled_from(NASTY)))
@settings(max_examples=200)
def test_nothing_in_a_text_is_left_that_means_something_to_latex(text):
    escaped = escape(text)
    known = [re.escape(command) for command in sorted(COMMANDS.values(), key=len, reverse=True)]
    plain = re.sub("|".join([*known, r"\\letter\{[0-9A-F]+\}", r"(?<=[-,])\{\}(?=[-,])"]), ".", escaped)
    assert re.findall(r"[\\{}$&#^_~%<>|\"`']|--|,,|[^ -\u017f]|[\x00-\x1f\x7f-\xa0]", plain) == []


@pytest.mark.slow
@needs_pdflatex
@pytest.mark.parametrize("name", ["small", "roles", "neurons", "empty", "many"])
def test_it_compiles_alone_and_in_a_paper(name, grow, tmp_path):
    circuits = {
        "small": SMALL,
        "roles": of_positions(),
        "neurons": of_neurons(),
        "empty": Circuit(Graph(2, 2), {}),
    }
    picture = circuit_to_tikz(circuits.get(name) or grow(Graph(30, 9), 2000))
    assert "LaTeX Warning" not in compile_with("pdflatex", picture, tmp_path, "circuit")
    shown = r"\resizebox{\linewidth}{!}{\input{circuit}}"
    paper = "\\documentclass{article}\n\\usepackage{standalone,tikz}\n\\begin{document}\n"
    paper += f"\\begin{{figure}}{shown}\\caption{{It}}\\end{{figure}}\n\\noindent{{\\sffamily {shown}}}\n\\end{{document}}\n"
    log = compile_with("pdflatex", paper, tmp_path)
    assert r"Overfull \hbox" not in log and "Missing character" not in log


@pytest.mark.slow
@needs_pdflatex
@given(
    st.lists(st.text() | st.text(st.sampled_from(NASTY)), min_size=60, max_size=60),
    st.sampled_from(["OT1", "T1"]),
)
@settings(max_examples=4)
def test_any_names_compile_in_either_encoding(tmp_path_factory, names, encoding):
    folder = tmp_path_factory.mktemp("names")
    lines = "\n\n".join(escape(name) for name in [NASTY, *names])
    head = f"\\documentclass{{article}}\n\\usepackage[{encoding}]{{fontenc}}\n\\begin{{document}}\n{LETTER}\n"
    compile_with("pdflatex", f"{head}{lines}\n\nend\n\\end{{document}}\n", folder)
    circuit = Circuit(SMALL.graph, SMALL.edges, {"name": names[0]}, {"name": NASTY}, {"name": names[1]})
    compile_with("pdflatex", circuit_to_tikz(circuit), folder, "circuit")


@pytest.mark.slow
@needs_pdflatex
@needs_pdftotext
def test_a_name_is_shown_as_it_is(tmp_path):
    name = "\\{}$&#^_~%<>|-- ,, !` ?` \u00e9\u0142"
    circuit = Circuit(SMALL.graph, SMALL.edges, {"name": name}, {"name": "\u4e2d"})
    fonts = "\\usepackage[T1]{fontenc}\\usepackage{mathptmx}\n\\begin{document}"
    compile_with(
        "pdflatex", circuit_to_tikz(circuit).replace("\\begin{document}", fonts), tmp_path, "circuit"
    )
    shown = subprocess.run(
        ["pdftotext", "circuit.pdf", "-"], cwd=tmp_path, capture_output=True, check=True
    )
    assert f"?, {name}, 6 of" in shown.stdout.decode()


@pytest.mark.slow
@pytest.mark.skipif(not has_lualatex(), reason="needs lualatex with its fonts")
def test_lualatex_compiles_any_names(tmp_path):
    circuit = Circuit(SMALL.graph, SMALL.edges, {"name": NASTY}, {"name": "\u4e2d"})
    compile_with("lualatex", circuit_to_tikz(circuit), tmp_path, "circuit")
