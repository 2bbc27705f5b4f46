"""The two arms, run for so many steps under a clock, in turn."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch

from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.bench.training.plain import Paper, train_plainly
from tasks.training.data import Lessons
from tasks.training.job import Fact
from tasks.training.loop import train
from tasks.training.objectives.base import Objective
from tasks.training.objectives.masked import Masked

OURS, PLAIN = "trainer", "plain loop"
# The paper's masks of single tokens, all weights, nothing replayed: both arms do the same work.
TOKENS = Masked(0.05, 0.95, 0.0)
EQUAL = {
    "trained": "all",
    "protection": 0.0,
    "replay_share": 0.0,
    "kl_weight": 0.0,
    "lr": 1e-5,
    "weight_decay": 0.1,
}

Lap = tuple[float, float]  # seconds, CPU seconds
Hook = Callable[[], None]
Run = Callable[[int, Hook], None]


@dataclass
class Clock:
    """A hook that notes each step but the first, which also pays for what is new.

    Seconds, and CPU seconds of all threads, in which other work on a busy machine doesn't count.
    """

    laps: list[Lap] = field(default_factory=list)
    last: Lap | None = None

    def __call__(self) -> None:
        """Note a step."""
        now = time.perf_counter(), time.process_time()
        if self.last is not None:
            self.laps.append((now[0] - self.last[0], now[1] - self.last[1]))
        self.last = now


def run_equal(name: str, bundle: Bundle, texts: Sequence[str]) -> Run:
    """Return an arm that trains on one batch of texts, step after step."""

    def run(steps: int, on_step: Hook) -> None:
        if name == PLAIN:
            paper = Paper(lr=1e-5, epochs=steps, batch_size=len(texts))
            train_plainly(bundle, texts, paper, on_step)
        else:
            recipe = Recipe(**EQUAL, epochs=steps, batch_size=len(texts))
            run_trainer(bundle, Lessons(as_facts(texts)), recipe, on_step, TOKENS)

    return run


def run_trainer(
    bundle: Bundle,
    lessons: Lessons,
    recipe: Recipe,
    on_step: Hook,
    objective: Objective | None = None,
) -> None:
    """Train as an update does, which is deterministic."""
    with _deterministic():
        train(bundle, lessons, recipe, on_step=lambda _: on_step(), objective=objective)


def as_facts(texts: Sequence[str]) -> list[Fact]:
    """Return texts as the trainer takes them."""
    return [Fact(id=str(number), text=text) for number, text in enumerate(texts)]


def time_in_turn(arms: Mapping[str, Run], rounds: int, steps: int) -> dict[str, list[Lap]]:
    """Return each round's median step, arm by arm; what else runs here slows all."""
    found: dict[str, list[Lap]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, run in arms.items():
            clock = Clock()
            run(steps + 1, clock)
            found[name].append(middle(clock.laps))
    return found


def middle(laps: Sequence[Sequence[float]]) -> Lap:
    """Return the medians of seconds and CPU seconds."""
    seconds, cpu = (median(side) for side in zip(*laps, strict=True))
    return seconds, cpu


def ratio(over: Sequence[Sequence[float]], under: Sequence[Sequence[float]]) -> Lap:
    """Return the median over rounds of one series' multiple of another, in both kinds of time."""
    pairs = zip(over, under, strict=True)
    return middle([(one[0] / other[0], one[1] / other[1]) for one, other in pairs])


@contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
