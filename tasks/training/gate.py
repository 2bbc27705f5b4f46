"""The gate: the pure rule that turns proofs and regressions into activate, hold or reject.

The questions asked are a sample of all that might be. So a loss is beyond its limit only where the
low end of its interval is: 1 of 10 lost says little, 20 of 200 says that more than 5 % are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

from app.recipe import Recipe

Outcome = Literal["activate", "hold", "reject"]

# So far beyond what is allowed, with nothing learned, nobody will want the checkpoint back.
HOPELESS = 3
# Each end of an interval is beyond the truth in one of twenty cases.
Z = 1.645


@dataclass(frozen=True)
class Regression:
    """How a sample of questions was answered before and after the run."""

    asked: int
    before: int  # right answers
    after: int
    lost: int = 0  # right before, wrong after
    flipped: int = 0  # answered in other words, right or wrong

    @property
    def loss(self) -> tuple[float, float]:
        """Return the interval of the share of right answers that were lost."""
        return wilson(self.lost, self.before)


NOTHING = Regression(0, 0, 0)


@dataclass(frozen=True)
class Evidence:
    """What a run found out about its candidate."""

    facts: int
    proven: int
    older: Regression = NOTHING
    neighbours: Regression = NOTHING
    reference: Regression = NOTHING
    base: Regression = NOTHING  # the same questions, against what the base model answered
    examples: Regression = NOTHING  # held out; their part in `proven` is settled already
    kl: float | None = None  # to the parent, nats a token
    contradictions: Sequence[str] = ()


@dataclass(frozen=True)
class Verdict:
    """What should become of the checkpoint, and why: each reason with its number."""

    outcome: Outcome
    reasons: list[str]


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return Wilson's score interval of a share; everything is possible where nothing was asked."""
    if not total:
        return 0.0, 1.0
    share, z2 = count / total, Z * Z / total
    middle = share + z2 / 2
    spread = Z * sqrt(share * (1 - share) / total + z2 / (4 * total))
    low, high = (middle - spread) / (1 + z2), (middle + spread) / (1 + z2)
    # Exactly so at the ends, whatever is rounded: nothing lost is never beyond a limit.
    return low if count else 0.0, high if count < total else 1.0


def judge(recipe: Recipe, found: Evidence) -> Verdict:
    """Judge a checkpoint by the facts proven of those taught, if any, and by what it forgot."""
    limits = [
        ("older facts", found.older, recipe.max_older_drop),
        ("neighbours", found.neighbours, recipe.max_older_drop),
        ("reference questions", found.reference, recipe.max_reference_drop),
        ("reference questions since the base model", found.base, recipe.max_base_drop),
    ]
    reasons = [f"{found.proven} of {found.facts} facts proven"] if found.facts else []
    if found.examples.asked:
        counts = f"{found.examples.before} of {found.examples.asked} right before"
        reasons.append(f"held-out examples: {counts}, {found.examples.after} after")
    reasons += [_explain(name, sample, most) for name, sample, most in limits if sample.asked]
    if not found.reference.asked:
        reasons.append("no reference questions: what else was lost isn't known")
    moved = found.kl is not None and found.kl > recipe.max_kl
    if found.kl is not None:
        limit = f"{'beyond' if moved else 'within'} the {recipe.max_kl:.2f} allowed"
        reasons.append(f"KL to the parent: {found.kl:.3f} nats a token, {limit}")
    reasons += found.contradictions
    beyond = any(sample.loss[0] > most for _, sample, most in limits)
    achieved = found.proven or not found.facts
    if achieved and not (beyond or moved or found.contradictions):
        return Verdict("activate", reasons)
    if not achieved and any(sample.loss[0] > HOPELESS * most for _, sample, most in limits):
        return Verdict("reject", reasons)
    return Verdict("hold", reasons)


def _explain(name: str, sample: Regression, most: float) -> str:
    low, high = sample.loss
    within = "beyond" if low > most else "within"
    return (
        f"{name}: {sample.before} of {sample.asked} right before, {sample.after} after;"
        f" {sample.lost} lost ({100 * low:.1f} to {100 * high:.1f} %, {within} the"
        f" {100 * most:.1f} allowed), {sample.flipped} answered otherwise"
    )
