"""Asks a model much, in parts: whoever watches the run hears in between that it goes on."""

from collections.abc import Callable, Sequence

from app.lm.generation import generate
from app.lm.loading import Bundle

# Enough to keep generation busy, few enough that progress is told in between.
ASKED_TOGETHER = 128
OnAsked = Callable[[int, int], None]  # hears how many of how many are done


def quiet(asked: int, total: int) -> None:
    """Tell nobody."""
    del asked, total


def answer_prompts(
    bundle: Bundle,
    prompts: Sequence[Sequence[int]],
    tokens: Sequence[int],
    on_asked: OnAsked,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Answer prompts (token ids) in order, as `generate` does; the parts of many differ in seed."""
    answers: list[str] = []
    for start in range(0, len(prompts), ASKED_TOGETHER):
        part = slice(start, start + ASKED_TOGETHER)
        # No database keeps U+0000, which a model of bytes can say.
        drawn = generate(bundle, prompts[part], tokens[part], temperature, seed + start)
        answers += [answer.replace("\0", "") for answer in drawn]
        on_asked(len(answers), len(prompts))
    return answers
