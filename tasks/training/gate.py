"""The gate: the pure rule that turns proofs and regressions into activate, hold or reject."""

from dataclasses import dataclass
from typing import Literal

from app.recipe import Recipe

Outcome = Literal["activate", "hold", "reject"]

# So far beyond what is allowed, with nothing learned, nobody will want the checkpoint back.
HOPELESS = 3


@dataclass(frozen=True)
class Regression:
    """How many questions of a sample were answered rightly before and after the run."""

    asked: int
    before: int
    after: int

    @property
    def drop(self) -> float:
        """Return the share of the sample that was lost; below zero when it was won."""
        return (self.before - self.after) / self.asked if self.asked else 0.0


NOTHING = Regression(0, 0, 0)


@dataclass(frozen=True)
class Verdict:
    """What should become of the checkpoint, and why: each reason with its number."""

    outcome: Outcome
    reasons: list[str]


def judge(
    recipe: Recipe,
    facts: int,
    proven: int,
    older: Regression,
    reference: Regression,
    examples: Regression = NOTHING,
) -> Verdict:
    """Judge a checkpoint by the facts proven of those taught, and by what it forgot.

    ``examples`` are those held out; their part in ``proven`` is settled already.
    """
    limits = [
        ("older facts", older, recipe.max_older_drop),
        ("reference questions", reference, recipe.max_reference_drop),
    ]
    reasons = [f"{proven} of {facts} facts proven"]
    if examples.asked:
        counts = f"{examples.before} of {examples.asked} right before, {examples.after} after"
        reasons.append(f"held-out examples: {counts}")
    reasons += [_explain(name, sample, most) for name, sample, most in limits if sample.asked]
    if proven and all(sample.drop <= most for _, sample, most in limits):
        return Verdict("activate", reasons)
    if not proven and any(sample.drop > HOPELESS * most for _, sample, most in limits):
        return Verdict("reject", reasons)
    return Verdict("hold", reasons)


def _explain(name: str, sample: Regression, most: float) -> str:
    within = "within" if sample.drop <= most else "beyond"
    return (
        f"{name}: {sample.before} of {sample.asked} right before, {sample.after} after;"
        f" a drop of {100 * sample.drop:.1f} points, {within} the {100 * most:.1f} allowed"
    )
