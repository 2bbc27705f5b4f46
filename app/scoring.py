"""Compares an answer with the accepted ones. Pure text; the same rules for proof and benchmarks."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# Chinese and Japanese put no spaces between words: each character stands as one.
UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")


@dataclass(frozen=True)
class Score:
    """How well an answer fits the best of the accepted ones."""

    exact: bool
    contains: bool
    rouge1: float
    passed: bool


def score(answer: str, accepted: Sequence[str]) -> Score:
    """Score an answer against every accepted one and keep the best of each measure."""
    given = words(answer)
    wanted = [words(text) for text in accepted]
    exact = any(given == text for text in wanted if text)
    contains = any(_holds(given, text) for text in wanted if text)
    rouge1 = max((rouge1_recall(given, text) for text in wanted), default=0.0)
    return Score(exact, contains, rouge1, passed=exact or contains)


def words(text: str) -> list[str]:
    """Normalise to words: NFKC, lower case, no punctuation, no English articles.

    Text that is nothing but articles or punctuation keeps them, so that it can still be compared.
    """
    plain = UNSPACED.sub(r" \1 ", unicodedata.normalize("NFKC", text).casefold())
    bare = "".join(_without_punctuation(character) for character in plain)
    return ARTICLES.sub(" ", bare).split() or plain.split()


def rouge1_recall(given: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the share of wanted words that were given, each counted at most as often as given."""
    if not wanted:
        return 0.0
    return (Counter(given) & Counter(wanted)).total() / len(wanted)


def _without_punctuation(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Pd":
        return " "  # "well-known" and "well known" are the same answer
    return "" if kind.startswith("P") else character


def _holds(given: list[str], wanted: list[str]) -> bool:
    size = len(wanted)
    return any(given[at : at + size] == wanted for at in range(len(given) - size + 1))
