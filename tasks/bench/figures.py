"""Figures beside their goals, how much is measured, and the questions that are asked."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import app
from app.cli.demo import FACTS as EXAMPLES

REFERENCE = Path(app.__file__).parent / "lm" / "starter" / "reference.jsonl"


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    requests: int
    swaps: int
    facts: int
    samples: int
    adapters: int
    threads: int
    epochs: int  # of the update, which has to end while the questions last


FULL = Sizes(10_000, 100, 200, 400, 16, 2, 10)
QUICK = Sizes(200, 10, 20, 64, 4, 2, 1)


@dataclass(frozen=True)
class Figure:
    """One measured figure; `met` is empty where there is no goal."""

    name: str
    value: str
    goal: str = ""
    met: bool | None = None

    def row(self) -> str:
        """Write the row of a Markdown table."""
        met = "" if self.met is None else "yes" if self.met else "**no**"
        return f"| {self.name} | {self.value} | {self.goal} | {met} |"


def reference() -> list[dict[str, str]]:
    """Read the starter's reference set: statements with a question about each."""
    return [json.loads(line) for line in REFERENCE.read_text().splitlines()]


def examples() -> list[dict[str, Any]]:
    """Read the example facts, as `POST /v1/facts` takes them."""
    return [json.loads(line) for line in EXAMPLES.read_text().splitlines()]


def questions(count: int) -> list[str]:
    """Return so many questions, again from the first one where there are fewer."""
    asked = [row["question"] for row in reference()]
    return [asked[number % len(asked)] for number in range(count)]
