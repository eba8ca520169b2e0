"""Every format that a circuit can be written in. A new one is a function from a Subject to bytes
and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from circuitfind.errors import UsageError, unknown
from circuitfind.exchange import writers
from circuitfind.export.drawing.subject import Subject
from circuitfind.export.formats.dot import circuit_to_dot
from circuitfind.export.formats.mermaid import circuit_to_mermaid
from circuitfind.export.formats.network import circuit_to_gexf, circuit_to_graphml, what_is_cut
from circuitfind.export.formats.picture import PICTURE_FORMATS, render
from circuitfind.export.formats.tikz import circuit_to_tikz


@dataclass(frozen=True)
class Format:
    """``suffix``: how its files end, after ``circuit.``. ``is_text``: a terminal or a pipe can show it.

    ``of_folder``: it reads the run's other files, so that a run writes it last; ``observes``: it
    shows what runs of the model tell of the circuit. ``told``: what a user should know of what is
    written, such as what is left out.
    """

    summary: str
    suffix: str
    write: Callable[[Subject], bytes]
    is_text: bool = True
    of_folder: bool = False
    observes: bool = False
    told: Callable[[Subject], Sequence[str]] = lambda subject: ()


def _dot(subject: Subject) -> bytes:
    return circuit_to_dot(subject.circuit, subject.look).encode()


def _picture(format: str, subject: Subject) -> bytes:
    return render(circuit_to_dot(subject.circuit, subject.look), format)


def _of_another_tool(name: str) -> Format:
    said = writers.WRITERS[name]

    def write(subject: Subject) -> bytes:
        return writers.write(name, subject.circuit, subject.folder)

    def told(subject: Subject) -> Sequence[str]:
        return (f"not in the file: {writers.lost(name, subject.circuit, subject.folder)}",)

    return Format(said.summary, said.suffix, write, said.is_text, of_folder=True, told=told)


def _tikz(subject: Subject) -> bytes:
    return circuit_to_tikz(subject.circuit, subject.look).encode()


def _mermaid(subject: Subject) -> bytes:
    return circuit_to_mermaid(subject.circuit, subject.look).encode()


def _graphml(subject: Subject) -> bytes:
    return circuit_to_graphml(subject.circuit)


def _gexf(subject: Subject) -> bytes:
    return circuit_to_gexf(subject.circuit)


def _cut_network(subject: Subject) -> Sequence[str]:
    return what_is_cut(subject.circuit)


def _html(subject: Subject) -> bytes:
    from circuitfind.export.html import circuit_to_html

    return circuit_to_html(subject)


def _cut(subject: Subject) -> Sequence[str]:
    from circuitfind.export.html import what_was_cut

    return what_was_cut(subject)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "dot": Format("Graphviz, with every place fixed", "dot", _dot),
        **{
            name: Format(
                f"a picture ({name.upper()})", name, partial(_picture, name), is_text=name == "svg"
            )
            for name in PICTURE_FORMATS
        },
        "tikz": Format("TikZ: LaTeX that compiles alone and inside a paper", "tex", _tikz),
        "mermaid": Format("a Mermaid flowchart, for Markdown", "mmd", _mermaid),
        "graphml": Format(
            "GraphML, for programs that analyse networks", "graphml", _graphml, told=_cut_network
        ),
        "gexf": Format("GEXF, for Gephi", "gexf", _gexf, told=_cut_network),
        **{name: _of_another_tool(name) for name in writers.WRITERS},
        "html": Format(
            "a page to explore in a browser", "html", _html, of_folder=True, observes=True, told=_cut
        ),
    }
)


DRAWN = ("dot", *PICTURE_FORMATS, "tikz", "mermaid")
"""Those that show what a look says: styles, labels, another circuit beside the first."""


def find_format(name: str) -> Format:
    """The format of that name. Raises UsageError, suggesting the nearest, if there is none."""
    if name not in FORMATS:
        raise UsageError(unknown("export format", name, FORMATS))
    return FORMATS[name]


def format_of(file_name: str) -> str | None:
    """The format whose files end so, the longest ending first; None if there is none."""
    for name in sorted(FORMATS, key=lambda name: -len(FORMATS[name].suffix)):
        if file_name.lower().endswith("." + FORMATS[name].suffix):
            return name
    return None
