"""log Z, the log of the summed exponentials of all logits: exact, and enclosed at a fraction of the cost.

Where a search tests one change after another, the normed streams x_1 ... x_n before the unembedding
lie near a plane of few dimensions through the stream a that they set out from. With the rows of B
spanning that plane, x_i - a = u_i B + e_i, and the logits of all tests follow from those of a and
of the rows of B: a few products with the unembedding in the place of n. What is left out is certain
to be small: for any vector g,

    log Z(x_i) = log sum_t exp(<w_t, a + u_i B>) + <g, e_i>, give or take max_t |<w_t - g, e_i>|,

and that is at most max_t |w_t - g|* |e_i| in any norm and its dual. Here g is, but for the
unlikeliest tokens, the mean column of the unembedding W under the distribution at a, which makes
the middle of the interval right to first order, and the norm is that of the columns' covariance, in
which none is much longer than another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from circuitfind.models.packed import can_pack, pack, product
from circuitfind.models.transformer import Transformer
from circuitfind.models.workers import Each, one_by_one

VOCAB_SLICE = 2048
"""How many tokens' logits a search holds at once."""
VECTOR = 32
"""A multiple of how many numbers any processor's vector instructions take at once."""
TOGETHER = 64
"""How many rows of logits stand in the cache beside a slice of the unembedding."""
ROWS = 4
"""Products are made up to a multiple of as many rows: then no row's bits depend on which others there are."""
ROUNDING = 1e-3
"""More than a float32 product of a thousand numbers loses."""
LIKELIEST = 256
"""How many tokens at the start stand for their own columns in the first-order term."""
WORTH = 0.5
"""A plane must have less than this many dimensions a test to be used."""


def pack_unembedding(model: Transformer) -> Transformer:
    """The model with a copy of its unembedding, for as long as a search lasts: a product of 16 rows
    or fewer then takes half as long. The model itself where that can't be. The last bits of log Z
    differ from those without the copy."""
    if not can_pack(model.W_U):
        return model
    return replace(model, packed_U=tuple(_pack(model, tokens) for tokens in slices(model)))


def _pack(model: Transformer, tokens: slice) -> Tensor:
    """A slice of the unembedding in order for ``_products``, made up to whole vectors by columns of zeros."""
    return pack(
        functional.pad(model.W_U[:, tokens], (0, (tokens.start - tokens.stop) % VECTOR)), TOGETHER
    )


def log_partition(
    model: Transformer, x: Float[Tensor, "test prompt d_model"], each: Each = one_by_one
) -> Float[Tensor, "test prompt"]:
    """log of the summed exponentials of all logits, from the normed stream ``x``, float64.

    A slice of the vocabulary for a few rows at a time, so that logits are exponentiated while they
    are in the cache.
    """
    groups = torch.split(x.flatten(0, 1), TOGETHER)

    def sum_slice(tokens: slice) -> Float[Tensor, " row"]:
        return torch.cat([_log_sum_exp(_logits(model, rows, tokens)) for rows in groups])

    return torch.stack(each(sum_slice, slices(model)), dim=-1).logsumexp(-1).reshape(x.shape[:2])


def mean_column(
    model: Transformer, x: Float[Tensor, "prompt d_model"], each: Each = one_by_one
) -> tuple[Float[Tensor, " prompt"], Float[Tensor, "prompt d_model"]]:
    """log Z, float64, and its gradient in ``x``: the mean of the unembedding's columns under the
    distribution at x.
    """

    def weigh_slice(tokens: slice) -> tuple[Tensor, Tensor]:
        logits = _logits(model, x, tokens)
        highest = logits.amax(-1, keepdim=True)
        weights = logits.sub_(highest).exp_()
        log_sum = weights.sum(-1).double().log() + highest.squeeze(-1)
        n_tokens = tokens.stop - tokens.start
        columns = torch.cat((weights, weights[-1:].expand(-len(weights) % ROWS, -1)))[:, :n_tokens]
        return log_sum, (columns @ model.W_U[:, tokens].T)[: len(x)] * (
            highest.squeeze(-1) - log_sum
        ).exp()[:, None]

    log_sums, means = zip(*each(weigh_slice, slices(model)), strict=True)
    parts = torch.stack(log_sums)
    log_z = parts.logsumexp(0)
    shares = (parts - log_z).exp().unsqueeze(-1)
    return log_z, (shares * torch.stack(means)).sum(0).to(x.dtype)


def slices(model: Transformer) -> list[slice]:
    """The vocabulary in pieces, for the threads to share."""
    d_vocab = model.W_U.shape[1]
    return [slice(first, min(first + VOCAB_SLICE, d_vocab)) for first in range(0, d_vocab, VOCAB_SLICE)]


def _products(
    model: Transformer, rows: Float[Tensor, "row d_model"], tokens: slice
) -> Float[Tensor, "row t"]:
    """Products of rows with a slice of the unembedding, then zeros: they are made up to whole
    vectors, as a rest would go through other instructions, to other bits."""
    n_tokens, whole = (
        tokens.stop - tokens.start,
        torch.cat((rows, rows[-1:].expand(-len(rows) % ROWS, -1))),
    )
    if model.packed_U is not None:
        return product(whole, model.packed_U[tokens.start // VOCAB_SLICE])[: len(rows)]
    products = rows.new_empty(len(whole), n_tokens + -n_tokens % VECTOR)
    torch.mm(whole, model.W_U[:, tokens], out=products[:, :n_tokens])
    products[:, n_tokens:] = 0
    return products[: len(rows)]


def _logits(
    model: Transformer, rows: Float[Tensor, "row d_model"], tokens: slice
) -> Float[Tensor, "row t"]:
    """The logits, then -inf."""
    return _finish(model, _products(model, rows, tokens), tokens)


def _finish(
    model: Transformer, products: Float[Tensor, "row t"], tokens: slice
) -> Float[Tensor, "row t"]:
    """The products made logits in place."""
    n_tokens = tokens.stop - tokens.start
    if model.b_U is not None:
        products[:, :n_tokens] += model.b_U[tokens]
    products[:, n_tokens:] = -math.inf
    return products


def _log_sum_exp(logits: Float[Tensor, "row t"]) -> Float[Tensor, " row"]:
    """log of each row's summed exponentials, float64; the logits are used up."""
    highest = logits.amax(-1, keepdim=True)
    return logits.sub_(highest).exp_().sum(-1).double().log() + highest.squeeze(-1)


@dataclass(frozen=True)
class Yardstick:
    """The norm |d| = |d root| on streams, from the covariance of the unembedding's columns.

    ``mean`` is the mean column, ``dual_root`` what takes a column to its dual norm in the same way,
    and ``reach`` the largest dual norm of a column less the mean. float64.
    """

    mean: Float[Tensor, " d_model"]
    root: Float[Tensor, "d_model d_model"]
    dual_root: Float[Tensor, "d_model d_model"]
    reach: float


def make_yardstick(model: Transformer) -> Yardstick:
    """The model's yardstick. A little of the plain norm is in it, so that no direction has length 0.

    Whatever the rounding, root and dual_root are inverses in float64; only the reach must be no
    shorter than it is.
    """
    mean = model.W_U.double().mean(1)
    centred = model.W_U - mean.to(model.W_U).unsqueeze(1)
    covariance = (centred @ centred.T).double() / centred.shape[1]
    plain = covariance.diagonal().mean().clamp_min(1e-30) * torch.eye(
        len(mean), dtype=mean.dtype, device=mean.device
    )
    root = torch.linalg.cholesky(covariance + 1e-6 * plain)
    dual_root = torch.linalg.inv(root).T
    lengths = (dual_root.T.to(model.W_U) @ centred).norm(dim=0)
    return Yardstick(mean, root, dual_root, float(lengths.max()) * (1 + ROUNDING))


@dataclass(frozen=True)
class Plane:
    """One prompt's changes as ``weights`` of the rows of ``basis``, and the ``rest`` that these leave out."""

    weights: Float[Tensor, "test dim"]
    basis: Float[Tensor, "dim d_model"]
    rest: Float[Tensor, "test d_model"]


def enclose_log_partition(
    model: Transformer,
    yardstick: Yardstick,
    start: Float[Tensor, "prompt d_model"],
    x: Float[Tensor, "test prompt d_model"],
    tolerance: float,
    each: Each = one_by_one,
) -> tuple[Float[Tensor, "test prompt"], Float[Tensor, "test prompt"]]:
    """log Z of the normed streams ``x``, and how far from it the truth can lie: about ``tolerance``
    at most; float64.

    ``start`` is where the changes set out from. The last test is computed exactly, so that a chain
    may go on from it. No prompt's numbers depend on another prompt.
    """
    longest = tolerance / (2 * yardstick.reach)
    planes = each(lambda i: _plane(x[:, i] - start[i], yardstick, longest), range(len(start)))
    if not any(planes):
        log_z = log_partition(model, x, each)
        return log_z, torch.zeros_like(log_z)
    bases = [start.new_empty(0, start.shape[1]) if p is None else p.basis for p in planes]
    rows = torch.cat([start, x[-1], *bases])

    def sum_slice(tokens: slice) -> tuple[Tensor, Tensor, Tensor]:
        """The sums of all tests, the logits at their start, and the sums of the last test."""
        shared = _products(model, rows, tokens)
        first, last, *others = torch.split(shared, [len(start), len(start), *map(len, bases)])
        logits = _finish(model, first, tokens)
        tests = [
            _log_sum_exp(
                _logits(model, x[:, i], tokens) if plane is None else _spread(logits[i], plane, others[i])
            )
            for i, plane in enumerate(planes)
        ]
        at_start = logits[:, : tokens.stop - tokens.start].clone()
        return torch.stack(tests, dim=-1), at_start, _log_sum_exp(_finish(model, last, tokens))

    parts, starts, lasts = zip(*each(sum_slice, slices(model)), strict=True)
    log_z = torch.stack(parts, dim=-1).logsumexp(-1)
    at_start = torch.cat(starts, dim=-1)

    def first_order(i: int) -> tuple[Tensor, Tensor] | None:
        plane = planes[i]
        return None if plane is None else _first_order(model, yardstick, at_start[i], plane)

    radius = torch.zeros_like(log_z)
    for i, found in enumerate(each(first_order, range(len(start)))):
        if found is not None:
            log_z[:, i] += found[0]
            radius[:, i] = found[1]
    log_z[-1], radius[-1] = torch.stack(lasts, dim=-1).logsumexp(-1), 0.0
    return log_z, radius


def _spread(
    start: Float[Tensor, " t"], plane: Plane, products: Float[Tensor, "dim t"]
) -> Float[Tensor, "test t"]:
    """The logits in all tests from those at their start and the products of their plane's basis."""
    return torch.addmm(start, plane.weights, products)


def _first_order(
    model: Transformer, yardstick: Yardstick, logits: Float[Tensor, " token"], plane: Plane
) -> tuple[Float[Tensor, " test"], Float[Tensor, " test"]]:
    """What the rest of each test adds to log Z to first order, and how far the truth can lie from it.

    The likeliest tokens stand for their own columns and all others for the mean column: g may be
    any vector.
    """
    likeliest = logits.topk(min(LIKELIEST, len(logits))).indices
    shares = (logits[likeliest].double() - logits.double().logsumexp(-1)).exp()
    tilt = (model.W_U[:, likeliest].double().T - yardstick.mean).T @ shares
    reach = yardstick.reach + float((tilt @ yardstick.dual_root).norm())
    return plane.rest @ (yardstick.mean + tilt), (plane.rest @ yardstick.root).norm(dim=-1) * reach


def _plane(changes: Float[Tensor, "test d_model"], yardstick: Yardstick, longest: float) -> Plane | None:
    """The plane of fewest dimensions that leaves nothing longer than ``longest``; None if it is not
    worth it.
    """
    exact = changes.double()
    lengths = exact @ yardstick.root
    values, vectors = torch.linalg.eigh(lengths @ lengths.T)  # ascending
    left_out = (vectors.square() * values.clamp_min(0)).cumsum(1).amax(0)
    n_needed = int((left_out > longest**2).sum())
    n_dims = max(ROWS, n_needed + -n_needed % ROWS)
    if n_dims >= WORTH * len(changes):
        return None
    weights = vectors[:, -n_dims:]
    basis = (weights.T @ exact).to(changes.dtype)
    weights = weights.to(changes.dtype)
    return Plane(weights, basis, exact - weights.double() @ basis.double())
