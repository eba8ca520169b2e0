"""The full model run on from one changed input: what a test of a single edge costs where every
other edge is kept.

In ACDC's search few nodes are live, and ``patching/incremental.py`` follows a change along kept
edges. Here all are: whatever a node writes otherwise is read by everything behind it, and
everything in a layer reads the same stream. So a test is one changed node, and from there on the
plain model, layer by layer, from the stream that the node writes to.

It goes on only at the positions from the first that an ablation can change to the answer's
(``Rows``), and in the last layer at the answer's alone, save for keys and values. Several tests
stand side by side, and come out the same to the last bit whichever they are
(``patching/incremental.py`` says why). The clean run that they start from is computed in the same
way, so that a change of nothing leads to the clean run's own end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitfind.circuits.graph import SLOTS, Node, Receiver, Slot
from circuitfind.models.components import Attention, affine, rotate, visible, visible_at_end
from circuitfind.models.forward import at_end
from circuitfind.models.transformer import Transformer, mlp, project, rotary_table, write_heads
from circuitfind.patching.blocks import Rows
from circuitfind.patching.reference import Baseline

KNOCKED_ROWS = 512
"""How many rows of knock-outs go through the model side by side."""
Stream = Float[Tensor, "test row d_model"]
Looked = Float[Tensor, "test looked d_model"]
"""Those rows of a stream that something behind a layer looks at: all, or the answer positions."""


@dataclass(frozen=True)
class Read:
    """What a layer's heads read their stream through, side by side: all queries, then keys, then values."""

    W: Float[Tensor, "d_model wide"]
    b: Float[Tensor, " wide"] | None


def join_reads(model: Transformer) -> list[Read]:
    """Every layer's projections as one product."""
    joined = []
    for layer in model.layers:
        weights, biases = (layer.W_Q, layer.W_K, layer.W_V), (layer.b_Q, layer.b_K, layer.b_V)
        W = torch.cat([x.transpose(0, 1).flatten(1) for x in weights], dim=1)
        known = [
            x.new_zeros(len(x), x.shape[-1]) if b is None else b
            for x, b in zip(weights, biases, strict=True)
        ]
        joined.append(
            Read(W, None if all(b is None for b in biases) else torch.cat([b.flatten() for b in known]))
        )
    return joined


@dataclass(frozen=True)
class LayerRun:
    """One layer in some runs: what its heads read, the stream behind them, what its MLP reads and
    writes (without b_out), and the stream behind both. In the last layer all but ``reads`` hold the
    answer positions alone."""

    reads: Stream
    after_heads: Looked
    mlp_in: Looked
    mlp_out: Looked
    after: Looked


class Onward:
    """One block of prompts, and what its logits read when one edge alone is removed, one node
    writes otherwise, or some nodes are knocked out."""

    def __init__(self, baseline: Baseline, reads: Sequence[Read]) -> None:
        self._baseline, self._model, self._reads = baseline, baseline.model, reads
        self._architecture = baseline.model.architecture
        self._rows, self._end = Rows(baseline.batch, baseline.ablation), baseline.batch.end
        self._visible = {
            False: visible(baseline.batch.n_pos, self._model.device),
            True: visible_at_end(self._end, baseline.batch.n_pos),
        }
        self._visible_to_group = {
            end_only: self._for_group(mask) for end_only, mask in self._visible.items()
        }
        self._rotary = {
            False: rotary_table(self._model, self._rows.positions),
            True: rotary_table(self._model, self._end),
        }
        self._keys_values = [
            self._join_keys_values(layer) for layer in range(self._architecture.n_layers)
        ]
        self._written: dict[Node, Float[Tensor, "looked d_model"]] = {}
        self._clean: list[LayerRun] = []
        stream = self._rows.take(baseline.clean.attention_in[0]).unsqueeze(0)
        for layer in range(self._architecture.n_layers):
            self._clean.append(self._run_layer(layer, stream))
            stream = self._clean[-1].after
        self.final: Float[Tensor, "prompt d_model"] = stream[0]

    @property
    def n_rows(self) -> int:
        """How many rows a test has."""
        return len(self._rows)

    def remove(
        self, receivers: Sequence[Receiver], senders: Sequence[int]
    ) -> Float[Tensor, "test prompt d_model"]:
        """What the logits read when the receiver's edge from one sender alone is removed, for each
        of these senders.

        Several receivers, which lose their edges from the sender at once, are inputs of different
        heads of one layer.
        """
        change, node = self._baseline.change_at(receivers[0], senders), receivers[0].node
        if node.kind == "logits":
            return self.final + at_end(change, self._end)
        stream = (
            self._after_mlp(node, change) if node.kind == "mlp" else self._after_heads(receivers, change)
        )
        return self._onward(node.layer + 1, stream)

    def write(
        self, node: Node, change: Float[Tensor, "test prompt pos d_model"]
    ) -> Float[Tensor, "test prompt d_model"]:
        """What the logits read when a head or an MLP writes so much more than it does in the clean run."""
        written = self._take(change, self._is_last(node.layer))
        is_mlp = node.kind == "mlp"
        stream = (
            self._clean[node.layer].after + written if is_mlp else self._behind_head(node.layer, written)
        )
        return self._onward(node.layer + 1, stream)

    def knock_out(self, sets: Sequence[Sequence[Node]]) -> Float[Tensor, "test prompt d_model"]:
        """What the logits read when every edge that leaves these heads and MLPs is removed, for each set."""
        finals, first = (
            self.final.repeat(len(sets), 1, 1),
            {test: min(node.layer for node in nodes) for test, nodes in enumerate(sets) if nodes},
        )
        order, at_once = sorted(first, key=first.__getitem__), max(1, KNOCKED_ROWS // self.n_rows)
        for i in range(0, len(order), at_once):
            tests = order[i : i + at_once]
            finals[tests] = self._knock_out(
                [sets[test] for test in tests], [first[test] for test in tests]
            )
        return finals

    def _knock_out(
        self, sets: Sequence[Sequence[Node]], first: Sequence[int]
    ) -> Float[Tensor, "test prompt d_model"]:
        """The same side by side. Each test begins with the clean run's stream at its ``first`` layer."""
        stream = self._clean[min(first)].reads.repeat(len(sets), 1, 1)
        for layer in range(min(first), self._architecture.n_layers):
            stream[[begins >= layer for begins in first]] = self._clean[layer].reads
            stream = self._run_layer(
                layer, stream, [[n for n in nodes if n.layer == layer] for nodes in sets]
            ).after
        return stream

    def _onward(self, first: int, stream: Stream) -> Float[Tensor, "test prompt d_model"]:
        """What the logits read, from the stream that layer ``first`` reads."""
        for layer in range(first, self._architecture.n_layers):
            stream = self._run_layer(layer, stream).after
        return stream

    def _is_last(self, layer: int) -> bool:
        """Whether only keys and values look at other positions than the answer's."""
        return layer == self._architecture.n_layers - 1

    @property
    def _group(self) -> int:
        """How many heads share a key/value head."""
        return self._architecture.n_heads // self._architecture.n_kv_heads

    def _for_group(
        self, mask: Bool[Tensor, "*prompt query key"]
    ) -> Bool[Tensor, "*prompt 1 queries key"]:
        """What the queries of the heads that share a key/value head may see, one head behind the other."""
        return (
            mask.unsqueeze(-3)
            .expand(*mask.shape[:-2], self._group, *mask.shape[-2:])
            .flatten(-3, -2)
            .unsqueeze(-3)
        )

    def _attention(self, layer: int) -> Attention:
        return self._architecture.blocks[layer].attention

    def _take(
        self, x: Float[Tensor, "*batch prompt pos d"], end_only: bool
    ) -> Float[Tensor, "*batch row d"]:
        return at_end(x, self._end) if end_only else self._rows.take(x)

    # the changed node

    def _after_mlp(self, node: Node, change: Float[Tensor, "test prompt pos d_model"]) -> Looked:
        """The stream behind an MLP whose input changes so."""
        clean = self._clean[node.layer]
        written = mlp(
            self._model, node.layer, clean.mlp_in + self._take(change, self._is_last(node.layer))
        )
        return clean.after + written.sub_(clean.mlp_out)

    def _after_heads(
        self, receivers: Sequence[Receiver], change: Float[Tensor, "test prompt pos d_model"]
    ) -> Looked:
        """The stream behind the layer of heads one of whose inputs changes so."""
        layer = receivers[0].node.layer
        return self._behind_head(layer, reduce(add, (self._write_head(one, change) for one in receivers)))

    def _behind_head(self, layer: int, written: Looked) -> Looked:
        """The stream behind a layer one or some of whose heads write so much more."""
        clean = self._clean[layer]
        if self._architecture.parallel:
            return clean.after + written
        after_heads = clean.after_heads + written
        return self._run_mlp(layer, after_heads, after_heads)[1]

    def _write_head(self, receiver: Receiver, change: Float[Tensor, "test prompt pos d_model"]) -> Looked:
        """What the head writes beyond what it writes where nothing changes, which stands beside the tests."""
        node, slot = receiver.node, receiver.slot
        assert slot is not None
        end_only = self._is_last(node.layer)
        changes = torch.cat((torch.zeros_like(change[:1]), change))
        clean = self._clean_slots(node)
        slots = {
            name: x.expand(len(changes), *x.shape[1:]).contiguous() for name, x in clean.items()
        }  # as below
        new = self._project(receiver, self._take(changes, end_only and slot == "q"))
        slots[slot] = new.unsqueeze(-2) if end_only and slot == "q" else self._rows.put(new, clean[slot])
        attention, visible_keys = self._attention(node.layer), self._visible[end_only]
        z = attention.forward(slots["q"], slots["k"], slots["v"], visible_keys)
        rows = z.squeeze(-2) if end_only else self._rows.take(z)
        return write_heads(self._model, node.layer, (rows[1:] - rows[:1]).unsqueeze(0), [node.head])[0]

    def _clean_slots(self, node: Node) -> dict[Slot, Float[Tensor, "1 prompt query d_head"]]:
        """The head's queries (in the last layer the answer's alone), keys and values in the clean run."""
        clean = self._baseline.clean.attention[node.layer]
        q, k, v = (x[node.head].unsqueeze(0) for x in (clean.q, clean.k, clean.v))
        q = at_end(q, self._end).unsqueeze(-2) if self._is_last(node.layer) else q
        return dict(zip(SLOTS, (q, k, v), strict=True))

    def _project(
        self, receiver: Receiver, change: Float[Tensor, "test row d_model"]
    ) -> Float[Tensor, "test row d_head"]:
        """The head's queries, keys or values where its input changes so."""
        node, slot = receiver.node, receiver.slot
        assert slot is not None
        end_only = self._is_last(node.layer) and slot == "q"
        reads = self._clean[node.layer].reads
        reads = reads.index_select(-2, self._rows.ends) if end_only else reads
        new = project(self._model, node.layer, slot, (reads + change).unsqueeze(0), [node.head])[0]
        return new if slot == "v" else rotate(new, self._rotary[end_only])

    # whole layers

    def _run_layer(self, layer: int, stream: Stream, out: Sequence[Sequence[Node]] = ()) -> LayerRun:
        """A layer that reads ``stream``; ``out``: which of its nodes each test ablates."""
        written = self._write_heads(layer, stream, out) + self._model.layers[layer].b_O
        kept = stream.index_select(-2, self._rows.ends) if self._is_last(layer) else stream
        after_heads = written.add_(kept)
        mlp_in = kept if self._architecture.parallel else after_heads
        return LayerRun(stream, after_heads, mlp_in, *self._run_mlp(layer, mlp_in, after_heads, out))

    def _run_mlp(
        self, layer: int, mlp_in: Looked, after_heads: Looked, out: Sequence[Sequence[Node]] = ()
    ) -> tuple[Looked, Looked]:
        """What the MLP writes, without b_out, and the stream behind it."""
        mlp_out = mlp(self._model, layer, mlp_in)
        for test, node in _nodes(out, "mlp"):
            mlp_out[test] = self._ablated(node)
        return mlp_out, after_heads + mlp_out + self._model.layers[layer].b_out

    def _write_heads(self, layer: int, stream: Stream, out: Sequence[Sequence[Node]] = ()) -> Looked:
        """What all heads of a layer write together, without b_O."""
        end_only = self._is_last(layer)
        q, joined = self._project_all(layer, stream)
        keys_values = self._split(
            self._rows.put(joined, self._keys_values[layer]), 2, self._architecture.n_kv_heads
        )
        k, v = keys_values.permute(
            3, 0, 1, 4, 2, 5
        ).contiguous()  # from others, bits depend on the place in the batch
        queries, visible_keys = self._queries(q, end_only), self._visible_to_group[end_only]
        z = self._attention(layer).forward(queries, k, v, visible_keys)
        rows, W_O = self._ungrouped(z, end_only), self._model.layers[layer].W_O.flatten(0, 1)
        by_head = rows.view(*rows.shape[:2], self._architecture.n_heads, -1)
        for test, node in _nodes(out, "head"):
            by_head[test, :, node.head] = 0.0
        written = (rows.flatten(0, 1) @ W_O).reshape(*rows.shape[:2], W_O.shape[-1])
        for test, node in _nodes(out, "head"):
            written[test] += self._ablated(node)
        return written

    def _ablated(self, node: Node) -> Float[Tensor, "looked d_model"]:
        """What a head or an MLP writes when it is ablated."""
        if node not in self._written:
            clean, end_only = self._baseline.clean, self._is_last(node.layer)
            change = self._baseline.change[self._baseline.graph.sender_index[node]]
            if node.kind == "mlp":
                own = clean.mlp_out[node.layer]
            else:
                own = write_heads(
                    self._model, node.layer, clean.attention[node.layer].z[[node.head]], [node.head]
                )[0]
            self._written[node] = self._take(own + change, end_only)
        return self._written[node]

    def _project_all(
        self, layer: int, stream: Stream
    ) -> tuple[Float[Tensor, "test row head d_head"], Float[Tensor, "test row wide"]]:
        """All queries; and all keys and values, side by side as in ``_keys_values``."""
        shape, read = self._architecture, self._reads[layer]
        rows = affine(shape.blocks[layer].norm.forward(stream).flatten(0, 1), read.W, read.b)
        heads = rows.reshape(*stream.shape[:2], -1, shape.d_head)
        n_turned, table = shape.n_heads + shape.n_kv_heads, self._rotary[False]
        turned = rotate(
            heads[:, :, :n_turned], None if table is None else (table[0][:, None], table[1][:, None])
        )
        q, k = torch.split(turned, [shape.n_heads, shape.n_kv_heads], dim=2)
        return q, torch.cat((k, heads[:, :, n_turned:]), dim=2).flatten(2)

    def _join_keys_values(self, layer: int) -> Float[Tensor, "prompt pos wide"]:
        """All keys and values of the clean run, those that every key/value head has once."""
        clean = self._baseline.clean.attention[layer]
        return (
            torch.cat((clean.k[:: self._group], clean.v[:: self._group])).permute(1, 2, 0, 3).flatten(2)
        )

    def _queries(
        self, q: Float[Tensor, "test row head d_head"], end_only: bool
    ) -> Float[Tensor, "test prompt kv_head query d_head"]:
        """Queries of the heads that share a key/value head one behind the other, at every position
        or the answer's.
        """
        flat = q.flatten(2)
        if end_only:
            whole = flat.index_select(1, self._rows.ends).unsqueeze(2)
        else:
            whole = self._rows.put(
                flat, flat.new_zeros(*self._baseline.batch.clean.shape, flat.shape[-1])
            )
        return (
            self._split(whole, self._architecture.n_kv_heads, self._group)
            .permute(0, 1, 3, 4, 2, 5)
            .flatten(3, 4)
        )

    def _ungrouped(
        self, z: Float[Tensor, "test prompt kv_head query d_head"], end_only: bool
    ) -> Float[Tensor, "test looked wide"]:
        """What all heads gather, side by side in each row."""
        wide = z.reshape(*z.shape[:3], self._group, -1, z.shape[-1]).permute(0, 1, 4, 2, 3, 5).flatten(3)
        return wide.squeeze(2) if end_only else self._rows.take(wide)

    def _split(self, x: Float[Tensor, "test prompt pos wide"], *parts: int) -> Tensor:
        """The last dimension as these, and d_head."""
        return x.reshape(*x.shape[:3], *parts, self._architecture.d_head)


def _nodes(sets: Sequence[Sequence[Node]], kind: str) -> Iterator[tuple[int, Node]]:
    """The nodes of a kind, each with the number of its set."""
    return ((number, node) for number, nodes in enumerate(sets) for node in nodes if node.kind == kind)
