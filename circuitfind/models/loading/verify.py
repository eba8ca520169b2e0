"""Whether circuitfind computes the model that TransformerLens loaded: compared at every load, on
the task's prompts.

Every residual stream that a receiver reads must be the sum of its senders (plus what is never
ablated), and the logits must come out, each to 1e-4 relative, in float32 at least
(``models/loading/model.py``). A model that differs anywhere is refused with the place named:
whatever was found in it would be about another model.

TransformerLens unembeds the answer positions alone, and is given few tokens at a time: the logits
of every position of long prompts, and their attention patterns, would take more memory than the
search (``runs/memory.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.models.forward import Trace, at_end, trace
from circuitfind.models.sizes import PROMPTS_COMPARED, compared_together
from circuitfind.models.transformer import Transformer, unembed
from circuitfind.prompts.batch import Batch

TOLERANCE = 1e-4


@torch.inference_mode()
def verify(bridge: Any, model: Transformer, batch: Batch) -> float:
    """The largest relative difference found. Raises ModelError past the tolerance, or for NaN logits."""
    places, size = range(min(PROMPTS_COMPARED, batch.n_prompts)), compared_together(batch.n_pos)
    groups = [places[start : start + size] for start in range(0, len(places), size)]
    return max(_verify_some(bridge, model, batch.rows(group).to(model.device)) for group in groups)


def _verify_some(bridge: Any, model: Transformer, few: Batch) -> float:
    """The largest relative difference on these prompts."""
    with _unembedding_only(bridge, few.end):
        logits, streams = bridge.run_with_cache(few.clean, prepend_bos=False, names_filter=_is_norm_input)
    reference = logits[:, 0]
    if not bool(reference.isfinite().all()):
        raise ModelError(
            "The model's logits are NaN or infinite on the first prompts. Check its weights, or use --dtype"
            " float32."
        )
    ours = trace(model, few.clean)
    real = torch.arange(few.n_pos, device=model.device) <= few.end.unsqueeze(1)
    worst = 0.0
    for place, stream, hook in _places(ours):
        worst = max(worst, _check(place, stream[real], streams[hook][real]))
    return max(worst, _check("the logits", unembed(model, at_end(ours.final, few.end)), reference))


@contextmanager
def _unembedding_only(bridge: Any, end: Int[Tensor, " prompt"]) -> Iterator[None]:
    """While this is open the bridge's logits are [prompt, 1, d_vocab]: those at each prompt's
    answer position.
    """

    def take(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return at_end(arguments[0], end).unsqueeze(1), *arguments[1:]

    handle = bridge.unembed.register_forward_pre_hook(take)
    try:
        yield
    finally:
        handle.remove()


def _is_norm_input(name: str) -> bool:
    return name.endswith(("ln1.hook_in", "ln2.hook_in")) or name == "ln_final.hook_in"


def _places(ours: Trace) -> Iterator[tuple[str, Float[Tensor, "prompt pos d_model"], str]]:
    """Each residual stream that something reads: its name, ours, and TransformerLens's name for it."""
    for layer, (attention_in, mlp_in) in enumerate(zip(ours.attention_in, ours.mlp_in, strict=True)):
        yield f"what the heads of layer {layer} read", attention_in, f"blocks.{layer}.ln1.hook_in"
        yield f"what the MLP of layer {layer} reads", mlp_in, f"blocks.{layer}.ln2.hook_in"
    yield "what the logits read", ours.final, "ln_final.hook_in"


def _check(place: str, ours: Tensor, reference: Tensor) -> float:
    difference = float((ours - reference).abs().max() / reference.abs().max().clamp_min(1e-30))
    if not difference <= TOLERANCE:
        raise ModelError(
            f"circuitfind does not reproduce this model: {place} differs from TransformerLens by"
            f" {difference:.1e} relative (allowed: {TOLERANCE:.0e}).\nIts architecture has a part that is not"
            " supported yet; use another model."
        )
    return difference
