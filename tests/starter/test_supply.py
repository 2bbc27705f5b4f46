"""What a pretraining run reads and how its steps are taken, on a CPU and as on a GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from app.recipe import Architecture
from tasks.starter.build import QUICK
from tasks.starter.model import losses, new_model
from tasks.starter.packing import WIDTH, find_targets, lay_out
from tasks.starter.replay import Replay
from tasks.starter.samples import Sample
from tasks.starter.supply import STEPS, Supply, steps

SHIPPED = Path(__file__).parents[2] / "app" / "lm" / "starter"
CPU = torch.device("cpu")


@pytest.mark.parametrize("architecture", ["causal", "diffusion"])
def test_each_token_sees_its_own_sample_alone(architecture: Architecture) -> None:
    plan = replace(QUICK, architecture=architecture)
    model = new_model(plan, PreTrainedTokenizerFast.from_pretrained(SHIPPED)).eval()

    def nats(first: list[int], second: list[int]) -> Tensor:
        samples = [Sample(ids, [2, 4], [70, 80], "overlay") for ids in (first, second)]
        laid = lay_out([samples])
        (at,) = find_targets(laid[3][None])
        with torch.no_grad():
            return losses(model, laid, at)[:4]

    one, other, changed = (
        [11, 12, 13, 14, 15, 16],
        [21, 22, 23, 24, 25, 26],
        [11, 12, 13, 99, 15, 16],
    )
    before, after, swapped = nats(one, other), nats(changed, other), nats(other, one)
    assert torch.equal(before[2:], after[2:])
    assert not torch.equal(before[1], after[1])
    assert torch.equal(before[0], after[0]) == (architecture == "causal")
    # Wherever a sample stands, it begins at position 0.
    assert torch.allclose(before, swapped[[2, 3, 0, 1]], atol=0.05)


def test_targets_are_found_and_filled_up_with_places_that_predict_nothing() -> None:
    rows = [[Sample([5, 6, 7], [0, 1], [6, 7], "plain")], [Sample([8, 9], [0], [9], "copy")]]
    laid = lay_out(rows)
    (at,) = find_targets(laid[3][None])
    labels = laid[3].flatten()[at]
    assert labels[:3].tolist() == [6, 7, 9]
    assert at[:3].tolist() == [0, 1, WIDTH]
    assert (labels[3:] == -1).all()


def test_a_step_has_rows_of_every_source() -> None:
    plan = replace(QUICK, sources=3, rows=2)

    def read(sources: range) -> Tensor:
        return next(steps(Supply(plan, SHIPPED, sources, 0, 0), CPU))

    together = read(range(3))
    assert together.shape == (5, STEPS, 6, WIDTH)
    parts = [read(range(number, number + 1)) for number in range(3)]
    assert torch.equal(together, torch.cat(parts, dim=2))
    assert not torch.equal(parts[0], parts[1])


def test_a_source_goes_on_with_other_items() -> None:
    first, later = (next(iter(Supply(QUICK, SHIPPED, range(1), step, 0))) for step in (0, 40))
    assert not torch.equal(first, later)


class Graphs:
    """Stands in for CUDA's: what is recorded isn't done, and is done again at each replay."""

    def __init__(self) -> None:
        self.open: list[Callable[[], object]] | None = None
        self.made = 0

    def do(self, work: Callable[[], object]) -> None:
        if self.open is None:
            work()
        else:
            self.open.append(work)

    def CUDAGraph(self) -> Any:  # noqa: N802 - torch's name
        self.made += 1

        class Graph(list[Callable[[], object]]):
            def replay(self) -> None:
                for work in self:
                    work()

        return Graph()

    @contextmanager
    def graph(self, recorded: Any, **_: object) -> Iterator[None]:
        self.open = recorded
        yield
        self.open = None


def test_steps_are_recorded_once_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs()
    for name in ("CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(graphs, name))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    total = torch.zeros(())

    def step(laid: Tensor, at: Tensor) -> None:
        graphs.do(lambda: total.add_(laid.sum() + at.sum()))

    replay = Replay(step)
    given = [(torch.full((2,), float(n)), torch.full((2 + n % 2,), float(n))) for n in range(8)]
    for laid, at in given:
        replay(laid, at)
    assert total == sum(laid.sum() + at.sum() for laid, at in given)
    assert graphs.made == 2
    replay.forget()
    for laid, at in islice(given, 4):
        replay(laid, at)
    assert graphs.made == 4
