"""Tells whoever watches the job how far the run is, and keeps what it took."""

import time
from dataclasses import dataclass

from tasks.training.job import Events


@dataclass(frozen=True)
class Step:
    """What one optimizer step did."""

    step: int
    total_steps: int
    epoch: int
    loss: float  # nats per target token, replay included
    recall: float  # share of the hidden tokens of new facts that were predicted
    lr: float
    grad_norm: float
    tokens: int  # all that the model read, padding included
    older_tokens: int  # of older facts and examples, replayed
    base_tokens: int  # of what the base model says about its reference set, replayed
    micro_batch_tokens: int  # at most; halved where they didn't fit a GPU's memory


class Clock:
    """Seconds spent in each phase; told to the events where a phase starts."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self._started: list[tuple[str, float]] = []

    def start(self, phase: str) -> None:
        """Enter a phase."""
        self.events.tell(phase)
        self._started.append((phase, time.monotonic()))

    def tell_asked(self, asked: int, total: int) -> None:
        """Tell how many exams of this phase are done."""
        self.events.tell(self._started[-1][0], asked=asked, exams=total)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase so far."""
        ends = [at for _, at in self._started[1:]] + [time.monotonic()]
        pairs = zip(self._started, ends, strict=True)
        return {f"{phase}_s": round(end - start, 2) for (phase, start), end in pairs}


class Progress:
    """The loop's ``on_step`` hook: tells events, keeps every step for the checkpoint."""

    def __init__(self, events: Events) -> None:
        self.steps: list[Step] = []
        self._events = events
        self._tokens = self._seen = 0
        self._started = time.monotonic()

    def __call__(self, step: Step) -> None:
        """Take note of a step."""
        self.steps.append(step)
        self._tokens += step.tokens
        self._seen += 1  # fewer than there are steps where an earlier attempt did some
        elapsed = time.monotonic() - self._started
        self._events.tell(
            "training",
            step=step.step,
            total_steps=step.total_steps,
            loss=round(step.loss, 4),
            lr=step.lr,
            micro_batch_tokens=step.micro_batch_tokens,
            tokens_per_s=round(self._tokens / elapsed),
            recall=round(step.recall, 4),
            eta_s=round(elapsed / self._seen * (step.total_steps - step.step), 1),
        )
