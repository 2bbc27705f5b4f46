"""What a run is taught: new facts in steps, replay mixed in, padded to little more than needed."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Any, TypeVar

import torch

from app.lm.loading import Bundle
from app.recipe import Recipe
from app.scoring import words
from tasks.training.job import Fact, Job
from tasks.training.objectives.base import Batch, Example, Objective, collate

T = TypeVar("T")
OF_BASE = ("statements", "answered")
# What a micro-batch costs beside its tokens, as a share of the most that it may have. A GPU waits
# for a micro-batch's kernels to be launched one by one: 0.15 s for 28 layers, seen on an H200.
OWN_COST = {"cpu": 1 / 32, "cuda": 1 / 2}


@dataclass(frozen=True)
class Lessons:
    """Everything that may get a loss; a probe never does (decision 9)."""

    facts: list[Fact]
    older: Sequence[Fact] = ()  # replayed: facts and examples of earlier updates
    statements: list[str] = field(default_factory=list)  # replayed, as what follows: the base's
    answered: list[tuple[str, str]] = field(default_factory=list)


def hold_out(facts: Sequence[Fact], recipe: Recipe) -> set[str]:
    """Return the prompts of the examples that are only asked: at least one of two or more.

    A prompt's own digest decides, so that an update that tries again asks what the one before did
    and not what it taught.
    """
    places = {
        hashlib.sha256(f"{recipe.seed} {fact.prompt}".encode()).digest(): fact.prompt
        for fact in facts
        if fact.prompt is not None
    }
    if len(places) < 2:
        return set()
    first, *others, _ = sorted(places)
    limit = recipe.held_out_share * 2**64
    chosen = [place for place in others if int.from_bytes(place[:8]) < limit]
    return {places[place] for place in (first, *chosen)}


def asked(job: Job) -> set[str]:
    """Return every question that is somebody's exam in this run: none of them is ever taught."""
    questions = {row.question for row in job.reference if row.part == "exam"}
    withdrawn = [probe.question for fact in job.controls for probe in fact.probes]
    older = [fact for fact in job.older if fact.prompt is None or fact.part != "replay"]
    statements = [fact for fact in job.facts if fact.prompt is None]
    exams = {probe.question for fact in [*older, *statements] for probe in fact.probes}
    return questions | exams | {*withdrawn} | hold_out(job.facts, job.head.recipe)


def teachable(job: Job) -> list[Fact]:
    """Return the facts and examples that are trained on."""
    exams = asked(job)
    return [fact for fact in job.facts if fact.prompt is None or fact.prompt not in exams]


def replayed(job: Job) -> tuple[list[Fact], list[str], list[str]]:
    """Return what may be replayed: older facts, and the reference set's statements and questions.

    What is anybody's exam in this run isn't, whatever part it was given.
    """
    rows, exams = [row for row in job.reference if row.part == "replay"], asked(job)
    taken = {tuple(words(exam)) for exam in exams}

    def leave_exams(fact: Fact) -> Fact:
        pairs = [pair for pair in fact.studied if tuple(words(pair[0])) not in taken]
        return fact.model_copy(update={"studied": pairs})

    older = [leave_exams(fact) for fact in job.older if fact.part == "replay"]
    return (
        [fact for fact in older if fact.prompt is None or fact.prompt not in exams],
        list(dict.fromkeys(row.text for row in rows if row.text)),
        [row.question for row in rows if tuple(words(row.question)) not in taken],
    )


def replays(facts: int, recipe: Recipe) -> int:
    """Count the samples of all steps that are replay."""
    return round(recipe.epochs * facts * recipe.replay_share / (1 - recipe.replay_share))


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
        self._study_share = recipe.study_share
        self._owed = 0.0  # replay that the steps so far were too small for
        self._pieces = -(-len(lessons.facts) // recipe.batch_size)
        statements = [Fact(id="", text=text) for text in lessons.statements]
        kinds: dict[str, Sequence[Any]]
        kinds = {"older": lessons.older, "statements": statements, "answered": lessons.answered}
        kinds = {kind: items for kind, items in kinds.items() if items}
        # However many there are, half of the replay is of older facts, half of the base model's.
        older, known = (
            [k for k in kinds if (k in OF_BASE) is of_base] for of_base in (False, True)
        )
        self._turns = cycle([kind for each in known for kind in (*older, each)] or older)
        self._drawn: dict[str, Iterator[Any]] = {
            kind: _endless(items, self._rng) for kind, items in kinds.items()
        }
        self.total_steps = recipe.epochs * self._pieces

    def steps(self, epochs: int) -> Iterator[tuple[int, list[Fact], list[Example]]]:
        """Yield the steps of so many epochs, each with its epoch's number, from 1."""
        for number in range(1, epochs + 1):
            for facts, examples in self.epoch():
                yield number, facts, examples

    def epoch(self) -> Iterator[tuple[list[Fact], list[Example]]]:
        """Yield an epoch's steps: the facts taught and all examples, replay among them."""
        facts = self._rng.sample(self._lessons.facts, len(self._lessons.facts))
        for piece in range(self._pieces):
            # Steps of equal size: none has a noisier gradient than the others.
            taught = facts[piece :: self._pieces]
            yield taught, [*self._teach(taught), *self._replay(self._due(len(taught)))]

    def _teach(self, facts: Sequence[Fact]) -> list[Example]:
        texts, asked = self._share_out([fact for fact in facts if fact.prompt is None])
        pairs = [(fact.prompt, fact.text) for fact in facts if fact.prompt is not None]
        examples = self._objective.examples(texts, self._bundle, self._rng) if texts else []
        if pairs:
            examples += self._objective.responses(pairs, self._bundle, self._rng)
        if asked:
            examples += self._objective.answers(asked, self._bundle, self._rng)
        return examples

    def _share_out(self, facts: Sequence[Fact]) -> tuple[list[str], list[tuple[str, str]]]:
        """Divide facts into statements that are shown as such, and questions about the others."""
        shown, asked = [], []
        for fact in facts:
            if fact.studied and self._rng.random() < self._study_share:
                asked.append(self._rng.choice(fact.studied))
            else:
                shown.append(fact.text)
        return shown, asked

    def sample(self, count: int) -> list[Example]:
        """Draw so many samples of replay, or of the lessons where there is none."""
        if self._drawn:
            return self._replay(count)
        facts = cycle(self._lessons.facts)
        return self._teach(list(islice(facts, count)))

    def _due(self, taught: int) -> int:
        """Count the replay that so much of what is taught makes due."""
        if not self._drawn:
            return 0
        self._owed += taught * self._replay_share / (1 - self._replay_share)
        count = round(self._owed)
        self._owed -= count
        return count

    def _replay(self, count: int) -> list[Example]:
        turns = list(islice(self._turns, count))

        def draw(kind: str) -> list[Any]:
            return [next(self._drawn[kind]) for _ in range(turns.count(kind))]

        older, known = self._teach(draw("older")), self._teach(draw("statements"))
        if pairs := draw("answered"):
            known += self._objective.answers(pairs, self._bundle, self._rng)
        known = [replace(example, of_base=True) for example in known]
        return [replace(example, replayed=True) for example in [*older, *known]]


def micro_batches(
    examples: Sequence[Example], most_tokens: int, device: torch.device
) -> list[Batch]:
    """Cut a step into batches of examples of like length, at most so many tokens with padding."""
    ordered = sorted(examples, key=lambda example: len(example.input_ids))
    return [collate(part, device) for part in group(ordered, most_tokens, OWN_COST[device.type])]


def group(ordered: Sequence[Example], most_tokens: int, own_cost: float) -> list[list[Example]]:
    """Cut examples, shortest first, into micro-batches of the least cost; none of no examples.

    A micro-batch costs its tokens, padding among them, and as much as a share ``own_cost`` of
    ``most_tokens`` for itself, however short it is.
    """
    lengths = [len(example.input_ids) for example in ordered]
    # The least cost of the first so many examples, and where the last micro-batch of them begins.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end, longest in enumerate(lengths, start=1):
        least = max(0, end - max(1, most_tokens // longest))
        best.append(
            min(
                (best[begin][0] + (end - begin) * longest + most_tokens * own_cost, begin)
                for begin in range(least, end)
            )
        )
    groups, end = [], len(ordered)
    while end:
        begin = best[end][1]
        groups.append(list(ordered[begin:end]))
        end = begin
    return groups[::-1]


def _endless(items: Sequence[T], rng: random.Random) -> Iterator[T]:
    while items:
        yield from rng.sample(items, len(items))
