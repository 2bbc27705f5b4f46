"""A long run's state on disk, from which a killed run goes on as if nothing had happened.

What is taught in each step follows from the recipe's seed, so only weights, optimizer and torch's
generators are kept; the steps done are drawn again, which costs next to nothing. Of several
processes the first one writes whole tensors, and each takes its part of them again.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tasks.training.job import Job
from tasks.training.progress import Step
from tasks.training.spread import ALONE, Spread, part_of

log = logging.getLogger(__name__)


class State:
    """Saves a run every ``every_s`` seconds, and finds what an earlier attempt at it left.

    ``steps`` is the list to which the run appends each step; it is kept and restored too.
    """

    def __init__(
        self, folder: Path, run: str, every_s: float, steps: list[Step], spread: Spread = ALONE
    ) -> None:
        self._path = folder / "state.safetensors"
        # Two attempts may overlap for a while; each writes under a name of its own.
        self._draft = folder / f"state.{os.getpid()}"
        self._run, self._every_s, self._steps = run, every_s, steps
        self._spread = spread
        self._saved_at = time.monotonic()

    @property
    def last(self) -> Step | None:
        """Return the last step that is done."""
        return self._steps[-1] if self._steps else None

    def restore(self, model: Any, optimizer: torch.optim.Optimizer) -> int:
        """Load the last state of this very run, if there is one; return the steps that it did."""
        done = self._restore(model, optimizer)
        if self._spread.sum(done) != [done * self._spread.size]:
            # Another attempt, about to end, has saved while this one's processes read.
            raise RuntimeError("The processes of this run found different states.")
        return done

    def _restore(self, model: Any, optimizer: torch.optim.Optimizer) -> int:
        if not self._path.exists():
            return 0
        try:
            with safe_open(self._path, "pt") as file:
                known = file.metadata()
                if known["run"] != self._run:
                    return 0
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            log.warning("%s can't be read, the run starts afresh: %s", self._path.name, error)
            return 0
        _load(tensors, model, optimizer)
        self._steps[:] = [Step(**step) for step in json.loads(known["steps"])]
        return len(self._steps)

    def keep(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        """Save if it is time; a disk too full for it costs only this safety."""
        (due,) = self._spread.sum(time.monotonic() - self._saved_at >= self._every_s)
        if not due:
            return
        tensors = self._spread.collect(_tensors(model, optimizer))
        if tensors:
            self._write(tensors)
        self._saved_at = time.monotonic()

    def _write(self, tensors: dict[str, Tensor]) -> None:
        steps = json.dumps([asdict(step) for step in self._steps])
        try:
            self._draft.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, self._draft, metadata={"run": self._run, "steps": steps})
            with self._draft.open("rb") as file:
                os.fsync(file.fileno())
            self._draft.rename(self._path)
        except (SafetensorError, OSError) as error:
            log.warning("the run's state can't be saved: %s", error)
            self._draft.unlink(missing_ok=True)


def name_run(job: Job) -> str:
    """Return a digest of all that decides a run, and of the form of what is kept of its steps.

    Attempts at one update share it, unless another release of the trainer makes one of them.
    """
    head = job.head.model_dump(mode="json", exclude={"token", "state"})
    rows = (job.facts, job.older, job.reference, job.controls)
    form = [field.name for field in fields(Step)]
    whole = [form, head, *([row.model_dump() for row in part] for part in rows)]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _tensors(model: Any, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    yield "random.cpu", torch.get_rng_state()
    if torch.cuda.is_available():
        yield "random.cuda", torch.cuda.get_rng_state()
    for name, weight in _learning(model):
        yield f"weight.{name}", weight.detach()
        for key, value in optimizer.state[weight].items():
            yield f"{key}.{name}", value


def _load(tensors: dict[str, Tensor], model: Any, optimizer: torch.optim.Optimizer) -> None:
    torch.set_rng_state(tensors.pop("random.cpu"))
    if "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors.pop("random.cuda"))
    weights = dict(_learning(model))
    for place, tensor in tensors.items():
        key, _, name = place.partition(".")
        weight = weights[name]
        part = part_of(tensor, weight)
        if key == "weight":
            weight.data.copy_(part)
        else:
            optimizer.state[weight][key] = part


def _learning(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
