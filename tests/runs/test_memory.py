"""What a run needs is estimated before it starts, and compared with what there is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import save_file

from circuitfind.circuits.graph import Graph
from circuitfind.errors import UsageError
from circuitfind.metrics import objective
from circuitfind.models import sizes
from circuitfind.models.sizes import Shape, Stored, stored_weights
from circuitfind.patching import blocks, learned_ablation
from circuitfind.patching.soft.block import BLOCK
from circuitfind.runs import memory
from circuitfind.runs.memory import (
    BYTES_IN_FLIGHT,
    BYTES_PER_PROMPT,
    LEAST_IN_FLIGHT,
    LIBRARIES,
    ROWS_OF_LOGITS,
    Workload,
    available,
    gigabytes,
    needed,
    peak,
    plan_memory,
)

GPT2 = Shape(n_layers=12, n_heads=12, d_model=768, d_mlp=3072, d_vocab=50_257)
WORK = Workload(
    GPT2, Stored(500_000_000, 125_000_000), 4, n_prompts=32, n_pos=20, batch_size=8, n_threads=2
)


def test_a_run_needs_its_weights_twice_and_a_stream_for_every_node() -> None:
    # one layer, one head, d_model 10, d_mlp 40, 2 prompts made up to 4 of 5 tokens in float32: a stream is 4 x 5 x 10 x
    # 4 = 800 bytes; 3 senders, 10 for the layer, half of 5 receivers: 15 streams; 64 tests of 3 senders' streams in
    # flight, with their MLP (twice 64 x 4 x 5 x 40 numbers) and logits (twice 64 x 4 x 7), and 10 x 7 weights of the
    # unembedding once more; weights 2 x 1000; attention scores of 4 x 5 x 5 numbers, and the pattern made of them
    work = Workload(
        Shape(1, 1, 10, 40, 7), Stored(1000, 250), 4, n_prompts=2, n_pos=5, batch_size=8, n_threads=2
    )
    tests = 64 * 3 * 800 + 2 * 64 * 4 * 5 * 40 * 4 + 2 * 64 * 4 * 7 * 4 + 10 * 7 * 4
    assert (
        needed(work)
        == LIBRARIES + work.n_prompts * BYTES_PER_PROMPT + 2000 + 15 * 800 + tests + 2 * 4 * 5 * 5 * 4
    )


def test_a_scored_run_needs_every_change_and_the_runs_of_a_block_on_each_thread() -> None:
    # the same model: blocks of 4 x 5 tokens, a stream of 800 bytes; 3 senders and 55 streams for the layer; 2 prompts'
    # scores of 5 receivers and 3 senders, three times over; 4 prompts' patterns of 5 x 5 numbers, of the layer and
    # three more. One block, so that the second thread has none
    work = Workload(
        Shape(1, 1, 10, 40, 10**6),
        Stored(1000, 250),
        4,
        n_prompts=2,
        n_pos=5,
        batch_size=8,
        n_threads=2,
        of_scores=True,
    )
    assert (
        needed(work)
        == LIBRARIES
        + work.n_prompts * BYTES_PER_PROMPT
        + 2000
        + 58 * 800
        + 3 * 2 * 5 * 3 * 4
        + 4 * 4 * 25 * 4
    )


def test_a_metric_of_the_tasks_own_takes_whole_rows_of_logits() -> None:
    # 2 prompts' logits of 7 tokens in float32, and on each of 2 threads 16 rows of them, six times over in float64
    work = Workload(
        Shape(1, 1, 10, 40, 7), Stored(1000, 250), 4, n_prompts=2, n_pos=5, batch_size=8, n_threads=2
    )
    assert needed(replace(work, of_logits=True)) - needed(work) == 7 * (2 * 4 + 2 * 16 * (4 + 6 * 8))
    assert ROWS_OF_LOGITS == objective.ROWS_OF_LOGITS


def test_learning_constants_counts_where_it_takes_more_than_what_comes_after() -> None:
    # blocks of 4 x 5 tokens on two threads, a stream of 800 bytes: 3 senders twice, 5 receivers, 55 for the
    # layer; the weights of q, k and v once; 4 prompts' patterns of 5 x 5 numbers, of the layer and three more
    work = Workload(
        Shape(1, 1, 10, 40, 7), Stored(1000, 250), 4, n_prompts=2, n_pos=5, batch_size=8, n_threads=4
    )
    learning = replace(work, learns_constants=True)
    learned = 2 * ((2 * 3 + 5 + 55) * 800 + 4 * 4 * 25 * 4) + 3 * 10 * 10 * 4
    assert (
        needed(replace(learning, of_scores=True))
        == LIBRARIES + learning.n_prompts * BYTES_PER_PROMPT + 2000 + learned
    )
    assert needed(learning) == needed(work) > needed(replace(learning, of_scores=True))
    assert (memory.BLOCKS_PER_STEP, memory.BLOCK_ROWS) == (learned_ablation.BLOCKS_PER_STEP, BLOCK)


def test_attention_in_long_prompts_grows_with_the_square_of_their_length() -> None:
    scored = replace(WORK, of_scores=True, n_threads=1)
    short, long, longer = (needed(replace(scored, n_pos=n)) for n in (1000, 2000, 4000))
    # 8 prompts' patterns of 12 heads, 15 of them: the second difference leaves what is linear out
    assert longer - 3 * long + 2 * short == 8 * 12 * 15 * 4 * (4000**2 - 3 * 2000**2 + 2 * 1000**2)


def test_prompts_too_long_to_compare_at_once_are_compared_one_by_one() -> None:
    assert [sizes.compared_together(n_pos) for n_pos in (1, 64, 65, 128, 129, 5000)] == [4, 4, 3, 2, 1, 1]


@pytest.mark.parametrize(("n_layers", "n_heads"), [(1, 1), (3, 4), (12, 12)])
def test_a_graphs_edges_are_counted_from_its_shape(n_layers: int, n_heads: int) -> None:
    assert memory.n_edges(Shape(n_layers, n_heads, 1, 1, 1)) == Graph(n_layers, n_heads).n_edges


def test_a_circuit_of_very_many_edges_counts_and_fewer_are_advised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = replace(WORK, n_prompts=2, n_pos=14, of_scores=True, stored=Stored(0, 0))
    deep = replace(few, shape=Shape(48, 16, 64, 256, 50_257), share_kept=1.0)
    assert (
        needed(deep) - LIBRARIES
        > 943_561 * memory.BYTES_PER_EDGE
        > needed(replace(deep, share_kept=0.1)) - LIBRARIES
    )
    no_container(monkeypatch, 10**12)
    with pytest.raises(
        UsageError, match=r"lower --edges or --fraction \(the circuit may have 943,561 edges\)"
    ):
        plan_memory(deep, "cpu", 900_000_000)


def test_a_large_vocabulary_is_held_twice_more_while_a_search_opens() -> None:
    # blocks of 4 x 5 tokens: 10 streams of 800 bytes of the corrupted run; 10 x 1,000,000 weights, twice, in float32
    work = Workload(
        Shape(1, 1, 10, 40, 10**6), Stored(1000, 250), 4, n_prompts=2, n_pos=5, batch_size=8, n_threads=2,
    )  # fmt: skip
    attention = 2 * 4 * 25 * 4
    assert (
        needed(work)
        == LIBRARIES
        + work.n_prompts * BYTES_PER_PROMPT
        + 2000
        + 15 * 800
        + 10 * 800
        + 2 * 10 * 10**6 * 4
        + attention
    )


def test_a_vocabulary_is_held_once_more_for_tests_in_float32() -> None:
    # so many tests that opening the search takes less: 1,000 numbers a token
    single = replace(WORK, shape=replace(WORK.shape, d_model=1000, d_vocab=50_000))
    double = replace(single, itemsize=8, stored=Stored(0, 0))
    more = {
        work: needed(replace(work, shape=replace(work.shape, d_vocab=50_001)))
        for work in (single, double)
    }
    assert more[single] - needed(single) == 1000 * 4
    assert more[double] == needed(double)


def test_weights_stored_in_another_type_are_mapped_beside_their_two_copies() -> None:
    half = replace(WORK, stored=Stored(250_000_000, 125_000_000))
    assert needed(half) - needed(WORK) == 250_000_000


def test_a_model_in_bfloat16_is_loaded_and_read_in_float32_and_then_rounded() -> None:
    stored = Stored(20 * 10**9, 10**10)
    half = needed(replace(WORK, stored=stored, itemsize=2))
    assert 0 <= half - LIBRARIES - (4 + 4 + 2) * 10**10 < 10**9
    assert half > needed(
        replace(WORK, stored=Stored(40 * 10**9, 10**10))
    )  # it is held for the time of loading alone


def test_what_the_tests_of_each_thread_hold_counts_for_each() -> None:
    less = replace(WORK, bytes_in_flight=BYTES_IN_FLIGHT // 2)
    one, two, four, nine = (replace(WORK, n_threads=n) for n in (1, 2, 4, 9))
    assert needed(two) - needed(one) > BYTES_IN_FLIGHT
    assert needed(WORK) - needed(less) == BYTES_IN_FLIGHT  # half of it on each of two threads
    assert needed(nine) == needed(four)  # there are four blocks


@pytest.mark.parametrize(
    "more",
    [
        replace(WORK, n_prompts=40),
        replace(WORK, n_pos=21),
        replace(WORK, itemsize=8),
        replace(WORK, n_threads=4),
        *(
            replace(WORK, shape=replace(GPT2, **{name: 2 * getattr(GPT2, name)}))
            for name in ("n_layers", "n_heads", "d_model", "d_mlp")
        ),
        replace(WORK, stored=Stored(600_000_000, 150_000_000)),
    ],
)
def test_more_of_anything_needs_more(more: Workload) -> None:
    assert needed(more) > needed(WORK)


def test_twice_the_prompts_need_twice_the_runs() -> None:
    four, eight, sixteen = (
        needed(replace(WORK, n_prompts=n, batch_size=4, n_threads=1)) for n in (4, 8, 16)
    )
    assert sixteen - eight == 2 * (eight - four) > 0


@pytest.mark.parametrize(
    "config",
    [
        {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50_257},
        {
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "hidden_size": 768,
            "vocab_size": 50_257,
            "n_layer": None,
            "intermediate_size": 3072,
        },
    ],
)
def test_a_shape_is_read_from_any_familys_config(config) -> None:
    assert Shape.of(config) == GPT2


def test_stored_weights_are_counted_from_the_head_of_the_file(tmp_path: Path) -> None:
    save_file(
        {"a": torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.float16)}, tmp_path / "model.safetensors"
    )
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


def test_a_run_with_room_takes_all_that_it_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    no_container(monkeypatch, 10**12)
    assert plan_memory(WORK, "cpu") == WORK


@pytest.mark.parametrize("is_limited", [False, True])
def test_a_run_with_less_room_has_less_in_flight_and_fits(
    is_limited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = needed(WORK) - 10**8
    no_container(monkeypatch, 10**12 if is_limited else room)
    fitting = plan_memory(WORK, "cpu", room if is_limited else None, [4])
    assert fitting == replace(WORK, bytes_in_flight=fitting.bytes_in_flight)
    assert LEAST_IN_FLIGHT <= fitting.bytes_in_flight < BYTES_IN_FLIGHT and needed(fitting) <= room


def test_smaller_blocks_are_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    no_container(monkeypatch, 10**12)
    room = needed(replace(WORK, bytes_in_flight=LEAST_IN_FLIGHT)) - 1
    assert plan_memory(WORK, "cpu", room, [4]).batch_size == 4
    with pytest.raises(UsageError, match="--memory allows"):
        plan_memory(WORK, "cpu", room)


@pytest.mark.parametrize(
    ("work", "lower"),
    [
        (replace(WORK, n_prompts=1000), ["--prompts (now 1000)", "now 20 tokens", "a smaller --model"]),
        (replace(WORK, stored=Stored(8 * 10**10, 2 * 10**10)), ["a smaller --model"]),
    ],
)
@pytest.mark.parametrize(
    ("free", "limit", "says"),
    [
        (1_500_000_000, None, "1.5 GB are available.\nLower "),
        (1_500_000_000, 2_000_000_000, "1.5 GB are available.\nLower "),
        (2_000_000_000, 1_500_000_000, "--memory allows 1.5 GB.\nRaise it, or lower "),
    ],
)
def test_a_run_that_does_not_fit_is_told_needed_available_and_what_to_lower(
    work: Workload,
    lower: list[str],
    free: int,
    limit: int | None,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_container(monkeypatch, free)
    with pytest.raises(UsageError) as caught:
        plan_memory(work, "cpu", limit)
    message = str(caught.value)
    least = f"{math.ceil(needed(replace(work, bytes_in_flight=LEAST_IN_FLIGHT)) / 1e8) / 10:.1f} GB"
    assert message.startswith(f"This run needs about {least} of memory and {says}")
    assert all(part in message for part in lower)
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("limit", "used", "stat", "expected"),
    [
        ("3000", "1000", "", 2000),
        (
            "3000\n",
            "1000\n",
            "anon 600\ninactive_file 400\nactive_file 9",
            2400,
        ),  # a cache of files goes when asked
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


def test_what_search_and_method_hold_is_what_is_counted() -> None:
    from circuitfind.methods.search import acdc
    from circuitfind.metrics import log_z

    assert memory.BYTES_IN_FLIGHT == blocks.BYTES_IN_FLIGHT and memory.TESTS == acdc.LONGEST_CHAIN
    assert memory.BLOCK_ROWS == blocks.ROWS and memory.VOCAB_SLICE == log_z.VOCAB_SLICE
