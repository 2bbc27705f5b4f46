"""What a run is taught: new facts in steps, replay mixed in, padded to little more than needed."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.training.job import Fact, Job
from tasks.training.objectives.base import Batch, Example, Objective, answer_example, collate

T = TypeVar("T")


@dataclass(frozen=True)
class Lessons:
    """Everything that may get a loss; a probe never does (decision 9)."""

    facts: list[Fact]
    statements: list[str] = field(default_factory=list)
    answered: list[tuple[str, str]] = field(default_factory=list)


def replayed(job: Job) -> tuple[list[str], list[str]]:
    """Return the statements and the questions that may be replayed.

    A reference question that is anybody's exam in this run isn't, whatever part it was given.
    """
    rows = [row for row in job.reference if row.part == "replay"]
    exams = {row.question for row in job.reference if row.part == "exam"}
    exams |= {
        probe.question for fact in [*job.facts, *job.older, *job.controls] for probe in fact.probes
    }
    statements = [fact.text for fact in job.older if fact.part == "replay"]
    statements += list(dict.fromkeys(row.text for row in rows if row.text))
    return statements, [row.question for row in rows if row.question not in exams]


class Curriculum:
    """Draws the examples of each step: every fact once an epoch, replay in its share.

    Objective and order take all randomness from one generator, so a seed fixes the whole run.
    """

    def __init__(
        self, lessons: Lessons, objective: Objective, bundle: Bundle, recipe: Recipe
    ) -> None:
        self._lessons = lessons
        self._objective = objective
        self._bundle = bundle
        self._rng = random.Random(recipe.seed)
        self._replay_share = recipe.replay_share
        self._pieces = -(-len(lessons.facts) // recipe.batch_size)
        self._statements = _endless(lessons.statements, self._rng)
        self._answered = _endless(lessons.answered, self._rng)
        self.total_steps = recipe.epochs * self._pieces

    def epoch(self) -> Iterator[tuple[list[Fact], list[Example]]]:
        """Yield an epoch's steps: the facts taught and all examples, replay among them."""
        facts = self._rng.sample(self._lessons.facts, len(self._lessons.facts))
        for piece in range(self._pieces):
            # Steps of equal size: none has a noisier gradient than the others.
            taught = facts[piece :: self._pieces]
            texts = [fact.text for fact in taught]
            examples = self._objective.examples(texts, self._bundle, self._rng)
            yield taught, [*examples, *self._replay(len(taught))]

    def _replay(self, taught: int) -> list[Example]:
        share = self._replay_share
        count = round(taught * share / (1 - share))
        if not self._lessons.statements:
            recited = 0
        elif not self._lessons.answered:
            recited = count
        else:
            recited = (count + self._rng.randrange(2)) // 2
        texts = [next(self._statements) for _ in range(recited)]
        examples = self._objective.examples(texts, self._bundle, self._rng) if texts else []
        if self._lessons.answered:
            pairs = [next(self._answered) for _ in range(count - recited)]
            examples += [answer_example(self._bundle, *pair) for pair in pairs]
        return [replace(example, replayed=True) for example in examples]


def micro_batches(
    examples: Sequence[Example], most_tokens: int, device: torch.device
) -> list[Batch]:
    """Cut a step into batches of examples of like length, at most so many tokens with padding."""
    ordered = sorted(examples, key=lambda example: len(example.input_ids))
    groups: list[list[Example]] = [[]]
    for example in ordered:
        if groups[-1] and (len(groups[-1]) + 1) * len(example.input_ids) > most_tokens:
            groups.append([])
        groups[-1].append(example)
    return [collate(group, device) for group in groups]


def _endless(items: Sequence[T], rng: random.Random) -> Iterator[T]:
    while items:
        yield from rng.sample(items, len(items))
