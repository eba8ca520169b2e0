"""Tokenizers small enough to read: words keep the space before them, as GPT-2's do; digits come in chunks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class ToyTokenizer:
    """One token a word, number chunk, sign or space.

    ``digits``: how many digits a token takes. ``space_joins``: whether the space before a number belongs to its first
    chunk (GPT-2) or is a token of its own (Llama 3, SmolLM2). ``longest``: how many letters a word may have to be one
    token; longer ones are two. ``known``: the only words there are; others are the unknown token 0. ``bos``: whether a
    prompt begins with a token of its own.
    """

    digits: int = 1
    space_joins: bool = False
    longest: int = 99
    known: frozenset[str] | None = None
    bos: bool = False
    unknown_token: int | None = None
    _pieces: list[str] = field(default_factory=lambda: ["<unk>", "<bos>"])

    def encode(self, text: str) -> list[int]:
        return [1] * self.bos + self.continuation(text)

    def continuation(self, text: str) -> list[int]:
        return [
            self._id(piece)
            for word in re.findall(r"<bos>| ?[^\W\d]+| ?\d+|[^\w\s]|\s", text)
            for piece in self._split(word)
        ]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        places, end = [], 0
        for token in self.continuation(text):
            start, end = end, end + len(self._pieces[token])
            places.append((start, end))
        return [(0, 0)] * self.bos + places

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self._pieces[token] for token in tokens)

    def _split(self, word: str) -> list[str]:
        if not word.strip().isdigit():
            return (
                [word] if len(word) <= self.longest + 1 else [word[: self.longest], word[self.longest :]]
            )
        space, number = (word[0], word[1:]) if word[0] == " " else ("", word)
        chunks = [number[start : start + self.digits] for start in range(0, len(number), self.digits)]
        return [space + chunks[0], *chunks[1:]] if self.space_joins or not space else [space, *chunks]

    def _id(self, piece: str) -> int:
        if self.known is not None and piece.strip() not in self.known:
            return 0
        if piece not in self._pieces:
            self._pieces.append(piece)
        return self._pieces.index(piece)


def one_digit() -> ToyTokenizer:
    """As Gemma, Qwen and SmolLM2 write numbers."""
    return ToyTokenizer(digits=1)


def two_digits() -> ToyTokenizer:
    """As GPT-2 writes most years."""
    return ToyTokenizer(digits=2, space_joins=True)


def three_digits() -> ToyTokenizer:
    """As Llama 3 writes numbers."""
    return ToyTokenizer(digits=3)
