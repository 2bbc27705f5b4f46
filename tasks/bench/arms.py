"""The arms of the knowledge experiment: what is taught, in which form, by which objective."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from app.lm.chat import encode_text, end_id
from app.lm.loading import Bundle
from app.recipe import MethodName, Recipe
from tasks.bench.subjects import Subject
from tasks.training.job import Fact
from tasks.training.objectives import OBJECTIVES
from tasks.training.objectives.base import IGNORED, Example, Objective, reply_example
from tasks.training.objectives.masked import Masked, recovery_prompt

Paraphrases = Literal["none", "same", "permuted"]
Control = Literal["random", "copy"]
Variant = Literal["noise", "hidden"]
# Random prompts come from ordinary tokens: the first ones are mostly special or single bytes.
FIRST_ORDINARY = 256


@dataclass(frozen=True)
class Arm:
    """One way to teach; a control is named in place of the objective."""

    objective: str
    paraphrases: Paraphrases = "none"
    method: MethodName = "full"

    @property
    def name(self) -> str:
        """Return the arm's key in the results."""
        return f"{self.objective}/{self.paraphrases}/{self.method}"

    def make_objective(self, recipe: Recipe) -> Objective:
        """Make the objective: of the recipe, the paper's masks or a variant, or a control."""
        if self.objective in ("random", "copy"):
            return Controlled(recipe.t_min, recipe.t_max, 0.0, 0.0, kind=self.objective)  # type: ignore[arg-type]
        if self.objective == "tokens":
            return Masked(recipe.t_min, recipe.t_max, 0.0)
        if self.objective in ("noise", "hidden"):
            return Varied(recipe.t_min, recipe.t_max, 0.0, kind=self.objective)  # type: ignore[arg-type]
        return OBJECTIVES[self.objective](recipe)  # type: ignore[index]

    def taught(self, subjects: Sequence[Subject]) -> list[Fact]:
        """Return every text of every fact, the statement itself always among them."""
        texts = {"none": lambda _: (), "same": lambda s: s.same, "permuted": lambda s: s.permuted}
        return [
            Fact(id=f"{subject.id}.{number}", text=text)
            for subject in subjects
            for number, text in enumerate([subject.text, *texts[self.paraphrases](subject)])
        ]


@dataclass(frozen=True)
class Controlled(Masked):
    """Recovery whose prompt is of no use: random tokens, or nothing masked (t = 0)."""

    kind: Control = "random"

    def examples(self, texts: Sequence[str], bundle: Bundle, rng: random.Random) -> list[Example]:
        """Make one example of each statement."""
        end, size = end_id(bundle.tokenizer), len(bundle.tokenizer)
        made = []
        for text in texts:
            ids = encode_text(bundle.tokenizer, text)
            seen = [_any_token(rng, size) for _ in ids] if self.kind == "random" else ids
            hidden = [self.kind == "random"] * len(ids)
            prompt = recovery_prompt(bundle.tokenizer, seen)
            made.append(reply_example(prompt, [*ids, end], [*hidden, False]))
        return made


@dataclass(frozen=True)
class Varied(Masked):
    """Masks of single tokens, but for one thing: noise in their place, or a loss on them alone."""

    kind: Variant = "noise"

    def examples(self, texts: Sequence[str], bundle: Bundle, rng: random.Random) -> list[Example]:
        """Make one example of each statement."""
        mask, size = bundle.manifest.mask_id, len(bundle.tokenizer)

        def vary(example: Example) -> Example:
            if self.kind == "noise":
                ids = [_any_token(rng, size) if i == mask else i for i in example.input_ids]
                return replace(example, input_ids=ids)
            pairs = zip(example.labels, example.recalled, strict=True)
            labels = [label if hidden else IGNORED for label, hidden in pairs]
            return replace(example, labels=labels)

        return [vary(example) for example in super().examples(texts, bundle, rng)]


def _any_token(rng: random.Random, size: int) -> int:
    return rng.randrange(min(FIRST_ORDINARY, size // 2), size)


def all_arms(
    objectives: Sequence[str], paraphrases: Sequence[Paraphrases], methods: Sequence[MethodName]
) -> list[Arm]:
    """Cross objectives, paraphrases and methods; controls have none and the first method."""
    arms = [
        Arm(objective, order, method)
        for objective in objectives
        for order in paraphrases
        for method in methods
    ]
    return [*arms, *(Arm(control, method=methods[0]) for control in ("random", "copy"))]


def budget(arm: Arm, subjects: Sequence[Subject], exposures: int) -> int:
    """Return the epochs in which each fact is shown so often, in whatever words."""
    return max(1, round(exposures * len(subjects) / len(arm.taught(subjects))))


def settings_of(arm: Arm, fields: dict[str, Any], lr: float, epochs: int, seed: int) -> Recipe:
    """Make the recipe of a run; only what the objective needs of it is the arm's own."""
    objective = arm.objective if arm.objective in OBJECTIVES else "masked"
    chosen = {"objective": objective, "method": arm.method, "lr": lr, "epochs": epochs}
    return Recipe(**{**fields, **chosen, "seed": seed})
