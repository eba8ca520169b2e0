"""Train the bundled model ``tiny`` on the ioi task: ``python -m tools.train_tiny [FOLDER]``.

The words of tasks/ioi.py become a vocabulary of one token a word (of its names every third, so that
two cores learn them in minutes: the task leaves out the others by itself); a small GPT-2 learns to
write whole prompts with their answers, drawn afresh at every step. A tenth of the name pairs is
never trained on. The script refuses to save a model that gets under 99% of the prompts right, with
names in any pair or in held-out pairs alone.

The answer is the name that occurs once, and while training it stands in any of the three places,
also in the last one. So no place tells the answer, nor does leaving out the last name: only
noticing which name occurs twice does. A part of the prompts has three different names, as the
task's corrupted prompts have, any of them the answer. So the model meets nothing foreign when edges
are patched between the two.

The same seed gives the same bytes on one machine; another processor or torch may round differently.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import ModuleType

import torch
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as WordTokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from circuitfind.models.loading.load import HubTokenizer
from circuitfind.prompts.pairs import PromptPair, Task

ROOT = Path(__file__).parents[1]
TINY = ROOT / "circuitfind" / "models" / "tiny"
WORD = r" ?[A-Za-z']+| ?[0-9]| ?[^A-Za-z0-9 ]"
END, UNKNOWN = "<end>", "<unknown>"
BAR = 0.99


@dataclass(frozen=True)
class Recipe:
    """How ``tiny`` is shaped and trained."""

    n_layers: int = 3
    n_heads: int = 4
    d_model: int = 64
    d_mlp: int = 128
    n_positions: int = 64
    n_steps: int = 4000
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    other_tokens_weight: float = (
        0.2  # the loss of all tokens beside the answer's, together, against the answer's
    )
    corrupted_share: float = 0.1  # of the prompts has three different names
    seed: int = 0


RECIPE = Recipe()


@dataclass(frozen=True)
class Sample:
    """A prompt to learn from, and its answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Score:
    """How well a model does on prompt pairs: share of prompts whose likeliest next word is the
    answer; mean logits.
    """

    n_prompts: int
    accuracy: float
    logit_diff: float
    corrupted_logit_diff: float

    def __str__(self) -> str:
        return (
            f"accuracy {self.accuracy:.2%} of {self.n_prompts} prompts, logit difference"
            f" {self.logit_diff:.2f} (after corrupted prompts {self.corrupted_logit_diff:.2f})"
        )


def load_task() -> ModuleType:
    """tasks/ioi.py as a module."""
    file = ROOT / "tasks" / "ioi.py"
    spec = importlib.util.spec_from_file_location("tasks.ioi", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names_of(task: ModuleType) -> list[str]:
    """The names that tiny knows: every third of the task's, and those that its example shows."""
    example: Task = task.TASK
    shown = re.findall(r"\w+", f"{example.example.clean} {example.example.corrupted}")
    return [name for index, name in enumerate(task.NAMES) if index % 3 == 0 or name in shown]


def vocabulary(task: ModuleType) -> list[str]:
    """Every word of the task's templates and lists as one token, the space before it included."""
    listed = [f" {word}" for word in (*names_of(task), *task.PLACES, *task.THINGS)]
    written = [
        word for template in task.TEMPLATES for word in re.findall(WORD, re.sub(r" ?{\w+}", "", template))
    ]
    return list(dict.fromkeys([END, UNKNOWN, *written, *listed]))


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word, the space before a word part of it; no token is added before or after a text."""
    ids = {word: index for index, word in enumerate(words)}
    tokenizer = WordTokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def build_model(recipe: Recipe, n_words: int) -> GPT2LMHeadModel:
    """An untrained GPT-2 of the recipe's shape, without dropout."""
    config = GPT2Config(
        vocab_size=n_words,
        n_positions=recipe.n_positions,
        n_embd=recipe.d_model,
        n_layer=recipe.n_layers,
        n_head=recipe.n_heads,
        n_inner=recipe.d_mlp,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config)


def is_held_out(one: str, other: str) -> bool:
    """Whether a prompt of these two names is never trained on: about one pair in ten, whichever
    name comes first.
    """
    return sum(map(ord, one + other)) % 10 == 0


def draw_samples(task: ModuleType, recipe: Recipe) -> Iterator[Sample]:
    """Prompts without end, of every template: three names in any order, the answer the one that
    occurs once.
    """
    rng, names = Random(recipe.seed), names_of(task)
    while True:
        receiver, giver, third = rng.sample(names, 3)
        if is_held_out(receiver, giver):
            continue
        again = third if rng.random() < recipe.corrupted_share else giver
        first, second, last = rng.sample((receiver, giver, again), 3)
        prompt = rng.choice(task.TEMPLATES).format(
            first=first,
            second=second,
            giver=last,
            place=rng.choice(task.PLACES),
            thing=rng.choice(task.THINGS),
        )
        yield Sample(prompt, f" {receiver}")


def loss_of(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, samples: list[Sample], recipe: Recipe
) -> Tensor:
    """Cross-entropy in nats of the answers, plus that of all other tokens at the recipe's weight."""
    tokens = tokenizer(
        [s.prompt + s.answer for s in samples], padding=True, padding_side="left", return_tensors="pt"
    )
    ids: Tensor = tokens["input_ids"]
    mask: Tensor = tokens["attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits: Tensor = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, :-1]
    losses = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    real = mask[:, :-1]  # a token is predicted where the one before it is no padding
    answers, others = losses[:, -1].mean(), (losses * real)[:, :-1].sum() / real[:, :-1].sum()
    return answers + recipe.other_tokens_weight * others


def train(task: ModuleType, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> GPT2LMHeadModel:
    """A model trained from scratch, ready to run; one line of progress a tenth of the way."""
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, len(tokenizer))
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, recipe.n_steps, pct_start=0.05, cycle_momentum=False
    )
    samples = draw_samples(task, recipe)
    for step in range(1, recipe.n_steps + 1):
        loss = loss_of(model, tokenizer, [next(samples) for _ in range(recipe.batch_size)], recipe)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % (recipe.n_steps // 10) == 0:
            print(f"step {step} of {recipe.n_steps}: loss {loss.item():.4f}", flush=True)
    return model.eval()


def answer_logits(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]
) -> Tensor:
    """Logits [batch, d_vocab] after each prompt. Padding comes after a prompt, where nothing
    attends to it.
    """
    tokens = tokenizer(list(prompts), padding=True, padding_side="right", return_tensors="pt")
    last = tokens["attention_mask"].sum(1) - 1
    with torch.no_grad():
        logits: Tensor = model(**tokens).logits
    return logits[torch.arange(len(prompts)), last]


def score(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[PromptPair]
) -> Score:
    """The model's score on the pairs, right against wrong answers after the clean and after the
    corrupted prompts.
    """
    clean = answer_logits(model, tokenizer, [pair.clean for pair in pairs])
    corrupted = answer_logits(model, tokenizer, [pair.corrupted for pair in pairs])
    row = torch.arange(len(pairs))
    right = torch.tensor(tokenizer.convert_tokens_to_ids([pair.answers[0] for pair in pairs]))
    wrong = torch.tensor(tokenizer.convert_tokens_to_ids([pair.wrong_answers[0] for pair in pairs]))
    return Score(
        n_prompts=len(pairs),
        accuracy=float((clean.argmax(-1) == right).float().mean()),
        logit_diff=float((clean[row, right] - clean[row, wrong]).mean()),
        corrupted_logit_diff=float((corrupted[row, right] - corrupted[row, wrong]).mean()),
    )


def held_out(pairs: Sequence[PromptPair]) -> list[PromptPair]:
    """Those of the pairs whose two names training never brought together."""
    return [pair for pair in pairs if is_held_out(pair.answers[0].strip(), pair.wrong_answers[0].strip())]


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Config, float32 weights and tokenizer in the hub's layout, as AutoModel and AutoTokenizer read them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)  # how to sample text: of no use here


def main(folder: Path = TINY, recipe: Recipe = RECIPE) -> None:
    """Train, report, and save in ``folder`` if the model is good enough; exits 1 if it is not."""
    torch.set_num_threads(1)  # a model this small gains nothing from a second
    task = load_task()
    tokenizer = build_tokenizer(vocabulary(task))
    model = train(task, tokenizer, recipe)
    pairs = task.TASK.make(HubTokenizer(tokenizer), 5000, -1)
    scores = {
        "any names": score(model, tokenizer, pairs[:1000]),
        "held-out pairs": score(model, tokenizer, held_out(pairs)),
    }
    for kind, result in scores.items():
        print(f"{kind}: {result}")
    if min(result.accuracy for result in scores.values()) < BAR:
        sys.exit(f"Not saved: accuracy under {BAR:.0%}. Change the recipe.")
    save(model, tokenizer, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else TINY)
