"""Measure the trainer on this machine: ``make bench-training``.

It runs in turn with a plain loop, in one process. Finished parts are kept in the folder, so that a
run that was killed goes on. The table is printed, written there as Markdown and, where no part was
left out, put into docs/performance.md.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from rich.progress import Progress

from app.cli.console import Stop, errors
from app.cli.demo import FACTS
from app.lm.memory import bound_cache, reuse_memory
from app.recipe import Recipe
from tasks.bench.cells import Ground as Kept
from tasks.bench.cells import open_ground
from tasks.bench.experiment import Cell, Ledger, describe
from tasks.bench.figures import Figure, examples
from tasks.bench.page import put, section
from tasks.bench.subjects import read_subjects
from tasks.bench.training import arithmetic, scale, step
from tasks.bench.training.plan import FULL, PARTS, QUICK, REAL, Part, Plan
from tasks.bench.training.proof import Race
from tasks.bench.training.subjects import Ground
from tasks.training.precision import autocast

ABOUT = """{cores} CPU cores ({machine}), threads: {threads}, both arms multiply in {dtype}; {day},
load average before the run {load:.1f}. `make bench-training` runs the trainer in turn with a plain
loop, which pads a batch to its longest text, computes all logits and has one mask rate a batch.
Goals are held against seconds; CPU seconds leave out what else runs here."""


@dataclass(frozen=True)
class Bench:
    """What every part needs; each keeps what it finished."""

    plan: Plan
    ground: Ground
    kept: Kept
    threads: int
    level: float
    counts: Sequence[int]  # facts to be proven
    get_or_run: Callable[[str, Callable[[], Cell]], Cell]

    def step(self) -> list[Figure]:
        """Time steps and take peaks, on a large vocabulary and on the starter."""
        found = []
        for case in (self.plan.wide, None):
            name = "starter" if case is None else "wide"
            cell = self.get_or_run(
                f"step {name}",
                partial(step.measure, self.ground, self.plan, case, self.threads),
            )
            found += step.figures(cell, case)
        return found

    def proof(self) -> list[Figure]:
        """Race to the same proof, on example facts and on more that are invented."""
        found = []
        for count in self.counts:
            few = count <= len(examples())
            subjects = read_subjects(FACTS)[:count] if few else self.ground.facts(count)
            race = Race(self.ground, self.kept, self.plan, self.level, subjects, self.get_or_run)
            found += race.run()
        return found

    def arithmetic(self) -> list[Figure]:
        """Compare FLOP/s with what the machine multiplies at best."""
        plan, case = self.plan, self.plan.largest
        large = self.get_or_run(
            "arithmetic largest",
            lambda: arithmetic.measure(*self.ground.open_case(case), plan, plan.gemms),
        )
        texts = [row["text"] for row in examples()]
        starter = self.get_or_run(
            "arithmetic starter",
            lambda: arithmetic.measure(self.ground.open_starter(), texts, plan, plan.gemms),
        )
        return [
            arithmetic.figure(large, case.shape.name, arithmetic.GOAL),
            arithmetic.figure(starter, step.STARTER),
        ]

    def scale(self) -> list[Figure]:
        """See what a fact costs among few and among many."""
        cell = self.get_or_run("scale", lambda: scale.measure(self.ground, self.kept, self.plan))
        return [scale.figure(cell, self.plan)]

    def gpu(self) -> list[Figure]:
        """Train real models' shapes where there is a GPU."""
        if not torch.cuda.is_available():
            return [Figure("real models' shapes on a GPU", "skipped: torch finds no CUDA device")]
        found = []
        for shape, method in REAL:
            cell = self.get_or_run(
                f"gpu {shape.name} {method}",
                partial(arithmetic.measure_gpu, self.ground, self.plan, shape, method),
            )
            found += arithmetic.gpu_figures(cell, shape, method)
        return found


def run(
    plan: Plan,
    out: Path,
    parts: Sequence[Part],
    threads: int,
    level: float,
    counts: Sequence[int] | None = None,
) -> list[Figure]:
    """Do what of these parts isn't done yet; return the figures in the parts' order."""
    bound_cache()
    reuse_memory()
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    kept = open_ground(out, "starter", "", kept=plan.kept)
    ground = Ground(out, kept.store, kept.digest)
    given = {"threads": threads, "level": level, "defaults": kept.defaults()}
    settings = describe(plan, kept.digest, **given)
    ledger = Ledger(out / "training.jsonl", settings)
    found: list[Figure] = []
    with Progress(console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task("parts", total=len(parts))

        def get_or_run(key: str, work: Callable[[], Cell]) -> Cell:
            bar.update(task, description=key)
            return ledger.get_or_run(key, work)

        bench = Bench(plan, ground, kept, threads, level, counts or plan.counts, get_or_run)
        for part in parts:
            found += getattr(bench, part)()
            bar.advance(task)
    return found


def about(threads: int, load: float) -> str:
    """Say what was run, where and when."""
    with autocast(torch.device("cpu"), Recipe()):
        narrow = torch.is_autocast_enabled("cpu")
    return ABOUT.format(
        cores=os.cpu_count(),
        machine=platform.machine(),
        threads=threads,
        dtype="bfloat16" if narrow else "float32",
        day=datetime.now(UTC).strftime("%Y-%m-%d"),
        load=load,
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says; status 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tasks.bench.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a toy of each part, nothing judged")
    parser.add_argument("--part", action="append", choices=PARTS, help="these alone")
    parser.add_argument(
        "--count",
        action="append",
        type=int,
        choices=FULL.counts,
        help="so many facts proven, not all",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="parts of that device alone")
    parser.add_argument("--folder", type=Path, default=Path("bench-training"), help="of results")
    parser.add_argument("--level", type=float, default=0.95, help="share of probes to be reached")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    fits = {"cpu": PARTS[:-1], "cuda": PARTS[-1:], None: PARTS}[given.device]
    parts = [part for part in fits if part in (given.part or PARTS)]
    load = os.getloadavg()[0]
    plan = QUICK if given.quick else FULL
    try:
        found = run(plan, given.folder, parts, given.threads, given.level, given.count)
    except Stop as stop:
        sys.stderr.write(f"{stop}\n")
        return 1
    if given.quick:
        found = [replace(figure, met=None) for figure in found]
    text = section("Training", about(given.threads, load), found)
    (given.folder / "training.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    if not given.quick and not given.part and not given.count:
        put("training", text)
    return int(any(figure.met is False for figure in found))


if __name__ == "__main__":
    sys.exit(main())
