"""The page in a real browser: it opens without an error, slides, searches, opens nodes, takes the keyboard, prints.

Debian's chromium and chromium-driver, without a display; where there are none these tests are left out.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from circuitfind.circuits.bases import Neuron
from circuitfind.circuits.circuit import Circuit
from circuitfind.circuits.graph import Edge, Graph, Node
from circuitfind.export import Look, Subject
from circuitfind.export.html import circuit_to_html
from circuitfind.export.html.data import Observations, Pattern, Prediction, Prompt, Sureness, Written
from circuitfind.export.html.gather import gather
from circuitfind.export.html.page import to_html

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
    pytest.mark.skipif(importlib.util.find_spec("selenium") is None, reason="needs selenium"),
]
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
FRAME = 1000 / 60
"""Milliseconds."""
ENTER, ESCAPE, TAB = "\ue007", "\ue00c", "\ue004"
UP, DOWN, LEFT = "\ue013", "\ue015", "\ue012"


class Browser:
    """What the tests do in a page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, size: str = "desktop", dark: bool = False) -> Browser:
        width, height = SIZES[size]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(path.as_uri())
        self.settle()
        return self

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str) -> Any:
        """What the script hands to ``done``."""
        return self.driver.execute_async_script(f"const done = arguments[0]; {script}")

    def settle(self) -> None:
        """Two frames later."""
        self.wait("requestAnimationFrame(() => requestAnimationFrame(() => done(1)))")

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def press(self, *keys: str) -> None:
        """Keys to whatever has the focus."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)
        self.settle()

    def slide(self, value: int) -> None:
        self.run(
            "const s = document.getElementById('size'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('input', {bubbles: true}))",
            value,
        )
        self.settle()

    def node(self, name: str) -> Any:
        return next(
            node for node in self.all(".node") if node.find_element("css selector", ".name").text == name
        )

    def pixels(self) -> int:
        """How many dots of the canvas are inked."""
        return self.run(
            "const c = document.getElementById('edges'), copy = document.createElement('canvas');"
            "copy.width = c.width; copy.height = c.height; const x = copy.getContext('2d', {willReadFrequently: true});"
            "x.drawImage(c, 0, 0); const d = x.getImageData(0, 0, c.width, c.height).data;"
            "let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n"
        )

    @property
    def complaints(self) -> list[str]:
        """What the console says."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield Browser(driver)
    driver.quit()


@pytest.fixture(autouse=True)
def no_complaints(browser: Browser) -> Iterator[None]:
    browser.complaints  # noqa: B018 - of earlier tests
    yield
    assert browser.complaints == []


GRAPH = Graph(3, 4)
TOKENS = ("When", " Mary", " and", " John", " gave", " to")


def observe(circuit: Circuit) -> Observations:
    """The last token looks at the second, in the corrupted run at the fourth; a head writes 2 and -1."""

    def pattern(key: int) -> bytes:
        rows = [[0.0] * (query + 1) for query in range(len(TOKENS))]
        for query, row in enumerate(rows):
            row[min(key, query)] = 1.0
        return bytes(round(255 * value) for row in rows for value in row)

    said = Prediction(((" Mary", 0.75), (" John", 0.2), (" <b>x</b>", 0.01)), 0.75, 0.2, 3.5)
    wrong = Prediction(((" John", 0.6), (" Mary", 0.3)), 0.3, 0.6, -1.0)
    runs = {"clean": said, "circuit": wrong, "corrupted": wrong}
    prompt = Prompt(
        "".join(TOKENS), "".join(TOKENS[::-1]), (" Mary",), (" John", " Tom"), TOKENS, TOKENS[::-1], runs
    )
    heads = {
        node: (Pattern(pattern(1), pattern(3)),) * 2 for node in circuit.nodes if node.kind == "head"
    }
    written = (Written((2.0, 0.5), (-1.0, 0.25)),) * 2
    writes = {node: written for node in circuit.nodes if node.kind != "logits"}
    return Observations((prompt,) * 8, 2, heads, writes, written, written, warnings=("be careful",))


CURVE = {
    "metric": "logit-diff",
    "cpr": 0.5,
    "cmd": 0.25,
    "signed": [{"edges": n, "faithfulness": n / 262, "kl": 8 - n / 40} for n in (0, 4, 30, 262)],
    "absolute": [{"edges": n, "faithfulness": n / 300, "kl": 8 - n / 50} for n in (0, 4, 30, 262)],
}


@pytest.fixture(scope="module")
def circuit(grow: Callable[..., Circuit]) -> Circuit:
    found = grow(GRAPH, 60)
    evidence = {run: {"kl": 1.0, "accuracy": 0.5} for run in ("full", "circuit", "ablated")}
    shares = {
        "faithfulness": 0.4,
        "faithfulness_interval": [0.3, 0.5],
        "faithfulness_by_metric": {"logit-diff": 0.4},
    }
    return replace(found, metrics={**evidence, **shares})


@pytest.fixture(scope="module")
def page(circuit: Circuit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it."""
    made = gather(Subject(circuit, observations=observe(circuit)))
    sure = tuple(Sureness(score - 0.01, score + 0.01, 0.9) for _, score in made.edges)
    heads = [node for node in made.nodes if node.kind == "head"]
    full = replace(
        made,
        sureness=sure,
        sureness_level=0.95,
        curve=CURVE,
        roles={heads[0]: "name mover", heads[1]: "induction"},
    )
    path = tmp_path_factory.mktemp("page") / "circuit.html"
    path.write_bytes(to_html(full))
    return path


def write(circuit: Circuit, folder: Path, look: Look = Look(), **more: Any) -> Path:  # noqa: B008 - frozen
    path = folder / "circuit.html"
    path.write_bytes(circuit_to_html(Subject(circuit, look, **more)))
    return path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_opens_in_both_themes_at_both_sizes_and_nothing_sticks_out(
    size: str, dark: bool, browser: Browser, page: Path, tmp_path: Path
) -> None:
    browser.open(page, size, dark)
    assert browser.text("h1") == "ioi in random" and browser.text("#notes") == "Be careful"
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("return document.documentElement.dataset.theme") == ("dark" if dark else "light")
    assert browser.driver.save_screenshot(str(tmp_path / f"{size}.png"))
    assert browser.pixels() > 300
    for _ in range(3):
        browser.run("document.getElementById('zoom-in').click()")
    browser.settle()
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("return document.getElementById('stage').clientWidth > innerWidth * 0.9")


def test_the_slider_redraws_and_tells_how_much_is_shown(browser: Browser, page: Path) -> None:
    browser.open(page)
    all_pixels, all_nodes = browser.pixels(), len(browser.all(".node:not(.off)"))
    browser.slide(5)
    assert browser.text("#shown").startswith("5 of 60 edges, |score| ≥ ")
    assert browser.pixels() < all_pixels and len(browser.all(".node:not(.off)")) < all_nodes
    inked = []
    for count in range(0, 61, 3):
        browser.slide(count)
        inked.append(browser.pixels())
    assert inked[0] == 0 and inked == sorted(inked) and len(set(inked)) == len(inked)
    browser.slide(0)
    assert browser.text("#shown") == "0 of 60 edges"


def test_the_slider_sets_a_score_as_well(browser: Browser, page: Path, circuit: Circuit) -> None:
    browser.open(page)
    browser.find("#by label:last-child").click()
    browser.slide(500)
    sizes = sorted((abs(score) for score in circuit.edges.values()), reverse=True)
    least = sizes[0] * (sizes[-1] / sizes[0]) ** 0.5
    assert browser.text("#shown").startswith(f"{sum(size >= least for size in sizes)} of 60 edges")
    for step, count in ((1000, 60), (0, 1)):
        browser.slide(step)
        assert browser.text("#shown").startswith(f"{count} of 60 edges")


def test_a_head_that_is_clicked_shows_its_edges_intervals_role_attention_and_writes(
    browser: Browser, page: Path, circuit: Circuit
) -> None:
    browser.open(page)
    head = next(node for node in circuit.nodes if node.kind == "head")
    browser.node(str(head)).click()
    browser.settle()
    assert browser.text("#panel h2") == str(head) and browser.text("#panel .tag") == "name mover"
    into = [edge for edge in circuit.edges if edge.receiver.node == head]
    out = [edge for edge in circuit.edges if edge.sender == head]
    lists = {one.find_element("css selector", "h3").text: one for one in browser.all("#panel .list")}
    for title, own in ((f"Edges in{len(into)}", into), (f"Edges out{len(out)}", out)):
        assert len(lists[title].find_elements("css selector", "tbody tr")) == len(own)
    assert "90%" in browser.text("#panel .edges") and "95% interval" in browser.text("#panel .edges")
    assert browser.text("#cell") == "␣to (5) to ␣Mary (1): 1.0"
    assert [bar.text.split("\n") for bar in browser.all(".bar")] == [
        ["clean", "Mary", "+2.00"], ["clean", "mean of 2", "−1.00"], ["corrupted", "Mary", "+0.500"],
        ["corrupted", "mean of 2", "+0.250"],
    ]  # fmt: skip
    assert browser.all(".bar .what")[1].get_attribute("title") == "John, Tom"
    browser.run("document.querySelector('input[value=difference]').click()")
    browser.settle()
    assert browser.text("#cell") == "␣to (5) to ␣Mary (1): +1.0"
    browser.run("document.querySelector('input[value=corrupted]').click()")
    browser.settle()
    assert browser.text("#cell") == "When (5) to ␣and (3): 1.0"


def test_a_node_is_found_by_number_and_by_role_and_one_that_is_not_there_is_told(
    browser: Browser, page: Path, circuit: Circuit
) -> None:
    browser.open(page)
    heads = [node for node in circuit.nodes if node.kind == "head"]
    search = browser.find("#search")
    search.send_keys(f"{heads[2].layer}.{heads[2].head}", ENTER)
    browser.settle()
    assert browser.text("#panel h2") == str(heads[2])
    search.send_keys("induc", ENTER)
    browser.settle()
    assert browser.text("#panel h2") == str(heads[1])
    search.send_keys("a77.h1")
    assert browser.text("#found") == "No such node here"


def test_everything_can_be_done_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.press("/", *"a2.h", DOWN, ENTER)
    name = browser.text("#panel h2")
    assert name.startswith("a2.h")
    for _ in range(30):
        browser.press(TAB)
        if browser.run("return document.activeElement.matches('.node')"):
            break
    assert browser.run("return document.activeElement.querySelector('.name').textContent") == name
    browser.press(DOWN, ENTER)
    below = browser.text("#panel h2")
    assert below not in (name, "The circuit")
    assert browser.run("return document.getElementById('said').textContent").startswith(
        f"{below} is open: "
    )
    browser.press(ESCAPE)
    assert browser.text("#panel h2") == "The circuit"
    browser.run("document.getElementById('size').focus()")
    browser.press(LEFT)
    assert browser.text("#shown").startswith("59 of 60 edges")


def test_every_control_has_a_name_and_every_graphic_too(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.node("m0").click()
    browser.settle()
    nameless = browser.run(
        "return [...document.querySelectorAll("
        "'button, select, input, [role=button], [role=img], canvas, aside, section')]"
        ".filter((e) => e.offsetParent !== null || e.closest('svg'))"
        ".filter((e) => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim()"
        " || (e.labels && e.labels.length) || e.getAttribute('aria-hidden'))).map((e) => e.outerHTML.slice(0, 120))"
    )
    assert nameless == []


def test_the_theme_is_switched_and_the_canvas_with_it(browser: Browser, page: Path) -> None:
    browser.open(page)
    look = "return [getComputedStyle(document.body).backgroundColor, document.getElementById('edges').toDataURL()]"
    before = browser.run(look)
    browser.find("#theme").click()
    browser.settle()
    after = browser.run(look)
    assert before[0] != after[0] and before[1] != after[1] and browser.text("#theme") == "Light"


def test_texts_are_shown_as_they_are(
    browser: Browser, page: Path, circuit: Circuit, tmp_path: Path
) -> None:
    hostile = "</script><img src=x onerror=alert(1)>\u2028\"'&amp;"
    circuit = replace(circuit, task={"name": hostile})
    browser.open(write(circuit, tmp_path, observations=observe(circuit)))
    assert browser.run("return document.getElementById('title').textContent") == f"{hostile} in random"
    assert browser.all("img") == [] and "␣<b>x</b>" in browser.text("#prompts")


def test_prompts_and_the_curve_are_there(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert len([prompt for prompt in browser.all(".prompt") if prompt.is_displayed()]) == 6
    browser.run("document.querySelector('#prompts .more').click()")
    assert len([prompt for prompt in browser.all(".prompt") if prompt.is_displayed()]) == 8
    first = browser.all(".prompt")[0]
    assert "75%" in first.text and "logit difference +3.50" in first.text
    assert len(browser.all("#chart circle")) == 9
    browser.run("document.querySelector('input[value=kl]').click()")
    browser.settle()
    assert "kl against" in browser.find("#chart svg").get_attribute("aria-label")


def test_it_prints_in_the_light_theme_with_all_prompts(browser: Browser, page: Path) -> None:
    browser.open(page, dark=True)
    browser.run(
        "window.seen = null; addEventListener('beforeprint', () => { seen = document.documentElement.dataset.theme })"
    )
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    assert browser.run("return seen") == "light"
    assert browser.run("return document.documentElement.dataset.theme") == "dark"


def test_two_thousand_edges_are_redrawn_within_a_frame(
    browser: Browser, grow: Callable[..., Circuit], tmp_path: Path
) -> None:
    """From the slider's event to the last dot on the canvas, each time with another number of edges."""
    browser.open(write(grow(Graph(30, 9), 2000), tmp_path))
    times = browser.wait(REDRAWS)
    print(f"median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms of {len(times)}")
    assert statistics.median(times) < FRAME


REDRAWS = """
const slider = document.getElementById('size'), canvas = document.getElementById('edges'), times = [];
const copy = document.createElement('canvas');
copy.width = copy.height = 1;
const reader = copy.getContext('2d', {willReadFrequently: true});
const counts = Array.from({length: 150}, (_, i) => i < 75 ? 2000 - 7 * i : (i * 761) % 2000); // a pull, then jumps
const redraw = () => {
  if (!counts.length) return done(times);
  slider.value = counts.pop();
  let start = 0;
  requestAnimationFrame(() => { start = performance.now(); }); // before the page's own frame
  const began = performance.now();
  slider.dispatchEvent(new Event('input', {bubbles: true}));
  const spent = performance.now() - began;
  requestAnimationFrame(() => { // after it
    reader.drawImage(canvas, 0, 0);
    reader.getImageData(0, 0, 1, 1); // waits until all is drawn
    times.push(spent + performance.now() - start);
    redraw();
  });
};
redraw();
"""


def test_a_hundred_thousand_edges_are_cut_and_the_page_lives(browser: Browser, tmp_path: Path) -> None:
    graph = Graph(28, 9)
    edges = {
        edge: 1.0 / (number + 1) for number, edge in zip(range(100_000), graph.edges(), strict=False)
    }
    browser.open(write(Circuit(graph, edges, {"name": "large"}, {"name": "ioi"}), tmp_path))
    assert "The circuit has 100,000 edges; the page has the 2,000 strongest" in browser.text("#notes")
    browser.slide(1000)
    assert browser.text("#shown").startswith("1,000 of 2,000 edges")


def empty() -> Circuit:
    return Circuit(GRAPH, {}, {"name": "none"}, {"name": "ioi"})


def of_positions() -> Circuit:
    names = (
        "input->a0.h1<v>@S1",
        "a0.h1->a1.h0<k>@S1",
        "a0.h1->a1.h0<q>@END",
        "a1.h0->logits",
        "input->m1@IO",
    )
    edges = {Edge.parse(name): 1.0 / (number + 1) for number, name in enumerate(names)}
    return Circuit(Graph(2, 2, roles=("IO", "S1", "END")), edges, {"name": "two"}, {"name": "ioi"})


def of_neurons() -> Circuit:
    model = {"name": "two", "d_head": 4, "d_mlp": 8}
    kept = {
        Neuron(Node("head", 0, 1), 2): -2.0,
        Neuron(Node("mlp", 1), 3): 1.0,
        Neuron(Node("mlp", 1), 4): 0.5,
    }
    return Circuit(Graph(2, 2), {}, model, {"name": "ioi"}, neurons=kept)


def test_an_empty_circuit_says_so(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(empty(), tmp_path))
    assert "the circuit is empty" in browser.text("#panel") and not browser.find("#size").is_enabled()
    assert len(browser.all(".node")) == 2


def test_positions_have_columns_and_a_choice_of_role(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(of_positions(), tmp_path))
    names = [node.text for node in browser.all(".node .name")]
    assert {"input@IO", "input@S1", "input@END"} <= set(names) and names.count("a0.h1") == 2
    browser.run(
        "const r = document.getElementById('role'); r.value = 1; r.dispatchEvent(new Event('change'))"
    )
    browser.settle()
    assert sorted(node.text for node in browser.all(".node .name")) == ["a0.h1", "a1.h0", "input"]
    browser.node("a1.h0").click()
    browser.settle()
    assert "a0.h1 <k> @S1" in browser.text("#panel") and "@END" not in browser.text("#panel .edges")


def test_neurons_are_counted_at_their_nodes(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(of_neurons(), tmp_path))
    assert browser.text("#shown").startswith("3 of 3 neurons")
    assert {node.text for node in browser.all(".node .kept") if node.text} == {"1 of 4", "2 of 8"}
    browser.slide(2)
    assert {node.text for node in browser.all(".node .kept") if node.text} == {"1 of 4", "1 of 8"}
    browser.node("m1").click()
    browser.settle()
    assert "m1.n3" in browser.text("#panel")


def test_a_lone_circuit_has_no_attention_and_still_opens_its_nodes(
    browser: Browser, circuit: Circuit, tmp_path: Path
) -> None:
    browser.open(write(circuit, tmp_path))
    browser.node("m0").click()
    browser.settle()
    assert browser.text("#panel h2") == "m0" and browser.all("#matrix") == []
    assert (
        json.loads(browser.run("return document.getElementById('data').textContent"))["observations"]
        is None
    )
