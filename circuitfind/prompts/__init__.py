"""Prompt pairs, their roles, and the batch of tokens that they become. A task file takes what it
needs from here.
"""

from circuitfind.prompts.pairs import (
    PromptPair,
    Role,
    Task,
    Tokenizer,
    draw_distinct,
    fill,
    is_single_token,
    words,
)

__all__ = ["PromptPair", "Role", "Task", "Tokenizer", "draw_distinct", "fill", "is_single_token", "words"]
