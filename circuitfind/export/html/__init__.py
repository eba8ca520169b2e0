"""A circuit as one HTML file that is explored in a browser, without a network.

data.py      what a page shows: plain values
folder.py    what lies beside the circuit: prompts, record, bootstrap, curve, sweep
beside.py    a known circuit beside it
gather.py    a Subject (circuit, run folder, what a model's runs showed) -> the page's data
page.py      the page's data -> HTML: template.html with page.css and the scripts in it
"""

from circuitfind.export.html.gather import gather, what_was_cut
from circuitfind.export.html.page import circuit_to_html, to_html

__all__ = ["circuit_to_html", "gather", "to_html", "what_was_cut"]
