"""One real update and greedy asking: what pretraining is judged by."""

import tempfile
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import get_peft_model

from app import prompts
from app.lm.base import import_base
from app.lm.chat import encode_chat
from app.lm.generation import generate
from app.lm.loading import Bundle, load
from app.recipe import Recipe
from tasks.starter.facts import Question
from tasks.training.data import Lessons
from tasks.training.job import Fact
from tasks.training.loop import train
from tasks.training.method import adapter_of, thaw
from tasks.training.studying import study

ANSWER_TOKENS = 48


@dataclass(frozen=True)
class Lasting:
    """What is replayed of the lasting world: statements, and questions with answers."""

    statements: Sequence[str] = ()
    answered: Sequence[tuple[str, str]] = ()


def open_base(folder: Path) -> Bundle:
    """Load an exported starter in float32, ready to be trained."""
    with tempfile.TemporaryDirectory() as store:
        digest = import_base(Path(store), str(folder))
        return load(Path(store), digest, dtype=torch.float32)


def update(
    bundle: Bundle,
    texts: Sequence[str],
    recipe: Recipe,
    lasting: Lasting | None = None,
    exams: Set[str] = frozenset(),
) -> None:
    """Train the recipe's weights in place on one statement per fact, by the trainer's own loop.

    An adapter's factors are put into the model's layers. Of the questions that it writes itself it
    is taught none that is among `exams`.
    """
    lasting = lasting or Lasting()
    facts = [Fact(id=str(number), text=text) for number, text in enumerate(texts)]
    studied = study(bundle, facts, exams, recipe)
    lessons = Lessons(studied, (), list(lasting.statements), list(lasting.answered))
    if recipe.method == "lora":
        torch.manual_seed(recipe.seed)
        get_peft_model(bundle.model, adapter_of(bundle.model, recipe))
    else:
        thaw(bundle.model, recipe)
    train(bundle, lessons, recipe, on_step=lambda _: None)


def answer(
    bundle: Bundle, questions: Sequence[Question], notes: Sequence[Sequence[str]] = ()
) -> list[str]:
    """Answer every question greedily, with the notes of the same place in context where given."""
    asked = [
        encode_chat(bundle.tokenizer, prompts.ask(question.text, notes[i] if notes else ()))
        for i, question in enumerate(questions)
    ]
    return generate(bundle, asked, ANSWER_TOKENS)
