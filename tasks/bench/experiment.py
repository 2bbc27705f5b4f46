"""What experiments share: finished cells that survive a kill, intervals, tables in three forms."""

import csv
import hashlib
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from app.cli.console import Stop

Cell = dict[str, Any]
T = TypeVar("T")
Interval = tuple[float, float, float]  # mean, low, high
DRAWS = 1000
TAIL = 0.025
# What of a plan each cell's key names: more of it goes into the same ledger.
NAMED = {"arms", "objectives", "paraphrases", "seeds"}


class Ledger:
    """The finished cells of one experiment, a JSON line each; the first line says which it is.

    A cell counts once its line is whole and on the disk, so that an experiment that was killed
    goes on with the cell it was at, and further arms and seeds find the finished ones done.
    """

    def __init__(self, path: Path, settings: Cell) -> None:
        self._path = path
        self._cells: dict[str, Cell] = {}
        rows = _whole_lines(path)
        if not rows:
            self._append({"settings": settings})
        elif _unnamed(rows[0]["settings"]) != _unnamed(json.loads(json.dumps(settings))):
            raise Stop(f"{path} holds another experiment's results: choose another folder.")
        self._cells = {row["key"]: row for row in rows[1:]}

    def get_or_run(self, key: str, run: Callable[[], Cell]) -> Cell:
        """Return a finished cell, or run it and keep what it gives."""
        if key not in self._cells:
            cell = {"key": key, **run()}
            self._append(cell)
            self._cells[key] = cell
        return self._cells[key]

    def __contains__(self, key: str) -> bool:
        return key in self._cells

    def _append(self, row: Cell) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _unnamed(settings: Cell) -> Cell:
    return {name: value for name, value in settings.items() if name not in NAMED}


def parse(kind: type[T], given: Cell) -> T:
    """Make a plan or recipe of what was given; Stop names the first field that can't be."""
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise Stop(f"{'/'.join(map(str, first['loc']))}: {first['msg']}.") from None


def describe(plan: Any, digest: str, **others: Any) -> Cell:
    """Return what a plan's results depend on: its fields, and what else is given.

    The model is named by its digest, a file with that of its content.
    """
    fields = {**asdict(plan), "model": digest, **others}
    return {name: _name(v) if isinstance(v, Path) else v for name, v in fields.items()}


def _name(path: Path) -> str:
    content = path.read_bytes() if path.is_file() else b""
    return f"{path} ({hashlib.sha256(content).hexdigest()[:12]})"


def _whole_lines(path: Path) -> list[Cell]:
    """Read a file's lines and cut off one that was only begun."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def interval(seeds: Sequence[Sequence[float]]) -> Interval:
    """Return the mean of every seed's marks with its 95 % interval.

    Both seeds and what was marked, the same in each, are drawn with replacement: the interval says
    what other seeds and other facts of this kind would give.
    """
    rng, size = random.Random(0), len(seeds[0])
    means = []
    for _ in range(DRAWS):
        drawn = [seeds[rng.randrange(len(seeds))] for _ in seeds]
        places = [rng.randrange(size) for _ in range(size)]
        means.append(mean(marks[place] for marks in drawn for place in places))
    means.sort()
    low, high = means[int(TAIL * DRAWS)], means[int((1 - TAIL) * DRAWS) - 1]
    return mean(mean(marks) for marks in seeds), low, high


def shown(found: Interval | None) -> str:
    """Write a mean with its interval; nothing where nothing was asked."""
    return f"{found[0]:.2f} ({found[1]:.2f}–{found[2]:.2f})" if found else ""


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """Write rows as a Markdown table."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def write_csv(path: Path, rows: Sequence[Cell]) -> None:
    """Write rows as a CSV file with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
