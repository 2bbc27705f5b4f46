"""Part 1: seconds a step and peak memory at equal batch.

As a program (``python -m tasks.bench.training.step ORDER``) it is one arm alone, for its peak.
"""

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter

from app.lm.loading import Bundle
from tasks.bench.experiment import Cell
from tasks.bench.figures import Figure, examples
from tasks.bench.training.arms import OURS, PLAIN, middle, ratio, run_equal, time_in_turn
from tasks.bench.training.plan import Case, Plan
from tasks.bench.training.subjects import Ground

STARTER = "starter, example facts"
PEAK_STEPS = 3


@dataclass(frozen=True)
class Order:
    """Which arm a process runs, on what; without a case on the starter."""

    ground: Ground
    arm: str
    case: Case | None
    threads: int


def measure(ground: Ground, plan: Plan, case: Case | None, threads: int) -> Cell:
    """Time both arms in turn, and run each once more alone for its peak."""
    opened = [_open(ground, case) for _ in (OURS, PLAIN)]
    arms = {name: run_equal(name, *pair) for name, pair in zip((OURS, PLAIN), opened, strict=True)}
    laps = time_in_turn(arms, plan.rounds, plan.steps)
    cell: Cell = {"batch": len(opened[0][1]), "laps": laps}
    del opened, arms
    if case is not None or plan.starter_peaks:
        cell["peaks"] = {
            arm: _run_alone(Order(ground, arm, case, threads)) for arm in (OURS, PLAIN)
        }
    return cell


def figures(cell: Cell, case: Case | None) -> list[Figure]:
    """Say how much faster and smaller the trainer is."""
    name = STARTER if case is None else case.shape.name
    spread = "" if case is None else f", texts of {case.shortest} to {case.longest} tokens"
    title = f"{name}, batch of {cell['batch']}{spread}"
    ours, plain = (cell["laps"][arm] for arm in (OURS, PLAIN))
    faster, less_cpu = ratio(plain, ours)
    found = [
        Figure(
            f"step time: {title}",
            f"{faster:.2f}x faster ({middle(plain)[0]:.3f} -> {middle(ours)[0]:.3f} s;"
            f" CPU time {less_cpu:.2f}x)",
            *_goal(case, ">= 2x", faster >= 2),
        )
    ]
    if "peaks" in cell:
        (our_load, our_peak), (load, peak) = (cell["peaks"][arm] for arm in (OURS, PLAIN))
        share = our_peak / peak
        added = f"above the loaded model {peak - load:.0f} -> {our_peak - our_load:.0f}"
        value = f"{share:.2f}x ({peak:.0f} -> {our_peak:.0f} MiB; {added})"
        goal = _goal(case, "<= 0.6x", share <= 0.6)
        found.append(Figure(f"peak memory: {title}", value, *goal))
    return found


def _goal(case: Case | None, goal: str, met: bool) -> tuple[str, bool | None]:
    return (goal, met) if case is not None else ("reported", None)


def _open(ground: Ground, case: Case | None) -> tuple[Bundle, list[str]]:
    if case is not None:
        return ground.open_case(case)
    return ground.open_starter(), [row["text"] for row in examples()]


def _run_alone(order: Order) -> tuple[float, float]:
    """Return MiB before the first step, and at the peak, of a process of its own."""
    given = json.dumps(asdict(order), default=str)
    command = [sys.executable, "-m", "tasks.bench.training.step", given]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    loaded, peak = json.loads(done.stdout)
    return loaded, peak


def _resident(field: str) -> float:
    # ru_maxrss won't do: a child begins with its parent's peak.
    status = Path("/proc/self/status").read_text()
    (found,) = re.findall(rf"{field}:\s+(\d+)", status)
    return int(found) / 1024


def main(arguments: list[str]) -> None:
    """Run one arm and print what it held."""
    order = TypeAdapter(Order).validate_json(arguments[0])
    torch.set_num_threads(order.threads)
    bundle, texts = _open(order.ground, order.case)
    loaded = _resident("VmRSS")
    run_equal(order.arm, bundle, texts)(PEAK_STEPS, lambda: None)
    sys.stdout.write(json.dumps([loaded, _resident("VmHWM")]))


if __name__ == "__main__":
    main(sys.argv[1:])
