"""What a run needs is estimated before it starts, and compared with what there is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import save_file

from circuitfind import memory
from circuitfind.errors import UsageError
from circuitfind.memory import (
    IN_FLIGHT,
    LIBRARIES,
    LOGITS,
    Shape,
    Stored,
    Workload,
    available,
    check_memory,
    gigabytes,
    needed,
    peak,
    stored_weights,
)

GPT2 = Shape(n_layers=12, n_heads=12, d_model=768, d_vocab=50_257)
WORK = Workload(GPT2, Stored(500_000_000, 125_000_000), 4, n_prompts=32, n_pos=20, batch_size=8, n_threads=2)


def test_a_run_needs_its_weights_twice_and_a_stream_for_every_node() -> None:
    # one layer, one head, d_model 10, 2 prompts made up to 4 of 5 tokens in float32: a stream is 4 x 5 x 10 x 4 = 800
    # bytes; 3 senders, 10 for the layer, half of 5 receivers: 15 streams; 32 tests of 3 senders' streams in flight;
    # logits 3 x 32 x 4 prompts x 7 tokens x 8 bytes; weights 2 x 1000
    work = Workload(Shape(1, 1, 10, 7), Stored(1000, 250), 4, n_prompts=2, n_pos=5, batch_size=8, n_threads=2)
    assert needed(work) == LIBRARIES + 2000 + 15 * 800 + 32 * 3 * 800 + 3 * 32 * 4 * 7 * 8


def test_weights_stored_in_another_type_are_mapped_beside_their_two_copies() -> None:
    half = replace(WORK, stored=Stored(250_000_000, 125_000_000))
    assert needed(half) - needed(WORK) == 250_000_000


def test_tests_in_flight_are_held_to_a_bound_on_each_thread() -> None:
    long = replace(WORK, n_pos=10_000)
    assert needed(replace(long, n_threads=2)) - needed(replace(long, n_threads=1)) == IN_FLIGHT + LOGITS
    assert needed(replace(long, n_threads=9)) == needed(replace(long, n_threads=4))  # there are four blocks


@pytest.mark.parametrize(
    "more",
    [
        replace(WORK, n_prompts=40),
        replace(WORK, n_pos=21),
        replace(WORK, itemsize=8),
        replace(WORK, n_threads=4),
        *(
            replace(WORK, shape=replace(GPT2, **{name: 2 * getattr(GPT2, name)}))
            for name in ("n_layers", "n_heads", "d_model")
        ),
        replace(WORK, stored=Stored(600_000_000, 150_000_000)),
    ],
)
def test_more_of_anything_needs_more(more: Workload) -> None:
    assert needed(more) > needed(WORK)


def test_twice_the_prompts_need_twice_the_runs() -> None:
    four, eight, sixteen = (needed(replace(WORK, n_prompts=n, batch_size=4, n_threads=1)) for n in (4, 8, 16))
    assert sixteen - eight == 2 * (eight - four) > 0


@pytest.mark.parametrize(
    "config",
    [
        {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50_257},
        {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "vocab_size": 50_257, "n_layer": None},
    ],
)
def test_a_shape_is_read_from_any_familys_config(config) -> None:
    assert Shape.of(config) == GPT2


def test_stored_weights_are_counted_from_the_head_of_the_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.float16)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert stored_weights(tmp_path) == Stored((tmp_path / "model.safetensors").stat().st_size, 17)


def test_weights_that_cannot_be_counted_are_estimated_by_their_size(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 1000)
    for dtype, n_numbers in (("float32", 250), ("bfloat16", 500), (None, 250)):
        (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": dtype}))
        assert stored_weights(tmp_path) == Stored(1000, n_numbers)


def no_container(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    for name in ("CGROUP_LIMITS", "CGROUP_USED", "CGROUP_STATS"):
        monkeypatch.setattr(memory, name, ())
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))


def test_a_run_that_fits_is_told_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    no_container(monkeypatch, 10**12)
    assert check_memory(WORK, "cpu") == needed(WORK)


@pytest.mark.parametrize(
    ("work", "lower"),
    [
        (replace(WORK, n_prompts=1000), ["--prompts (now 1000)", "now 20 tokens", "a smaller --model"]),
        (replace(WORK, stored=Stored(8 * 10**10, 2 * 10**10)), ["a smaller --model", "--dtype bfloat16"]),
    ],
)
def test_a_run_that_does_not_fit_is_told_needed_available_and_what_to_lower(
    work: Workload, lower: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_container(monkeypatch, 1_500_000_000)
    with pytest.raises(UsageError) as caught:
        check_memory(work, "cpu")
    message = str(caught.value)
    assert message.startswith(
        f"This run needs about {gigabytes(needed(work))} of memory and 1.5 GB are available.\nLower "
    )
    assert all(part in message for part in lower)
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("limit", "used", "stat", "expected"),
    [
        ("3000", "1000", "", 2000),
        ("3000\n", "1000\n", "anon 600\ninactive_file 400\nactive_file 9", 2400),  # a cache of files goes when asked
        ("3000", "1000", "cache 7\ntotal_inactive_file 300\n", 2300),  # the older system's name for it
        ("3000", "4000", "", 0),
        ("max", "1000", "", 9000),  # no limit
        ("9223372036854771712", "1000", "", 9000),  # how the older system says so
        (None, None, "", 9000),
    ],
)
def test_a_containers_limit_counts(limit, used, stat, expected, tmp_path: Path, monkeypatch) -> None:
    no_container(monkeypatch, 9000)
    for name, text in (("CGROUP_LIMITS", limit), ("CGROUP_USED", used), ("CGROUP_STATS", stat)):
        if text is not None:
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(memory, name, (str(tmp_path / "absent"), str(tmp_path / name)))
    assert available("cpu") == expected


def test_this_machine_has_some_memory_and_this_process_uses_some() -> None:
    assert available("cpu") > 0
    assert 10_000_000 < peak() < 10**12


@pytest.mark.parametrize(
    ("n_bytes", "shown"), [(0, "0.0 GB"), (2_500_000_000, "2.5 GB"), (123_456_000_000, "123.5 GB")]
)
def test_bytes_are_shown_as_gigabytes(n_bytes: int, shown: str) -> None:
    assert gigabytes(n_bytes) == shown
