"""Compares an answer with the accepted ones. Pure text; the same rules for proof and benchmarks."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# A capital A within a text is no article but a label, as in "Gate A", unless a title goes on.
ARTICLES = re.compile(r"\b(?:a|[Aa]n|AN|[Tt]he|THE)\b(?!-)|^\W*A\b(?!-)|\bA(?= [A-Z])")
# Chinese and Japanese put no spaces between words: each character stands as one.
UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_UNSPACED = re.compile(f"([{UNSPACED}])")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DATE = re.compile(r"\d+\.\d+\.\d+")


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

    What makes another number of one stays: 3.5 isn't 35. Text that is nothing but articles or
    punctuation keeps them, so that it can still be compared.
    """
    plain = _UNSPACED.sub(r" \1 ", unicodedata.normalize("NFKC", text))
    bare = _without_punctuation(ARTICLES.sub(" ", plain).casefold())
    return bare.split() or plain.casefold().split()


def rouge1_recall(given: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the share of wanted words that were given, each counted at most as often as given."""
    if not wanted:
        return 0.0
    return (Counter(given) & Counter(wanted)).total() / len(wanted)


def _without_punctuation(text: str) -> str:
    text = _DATE.sub(lambda date: date[0].replace(".", " "), _THOUSANDS.sub("", text))
    kept = []
    for before, character, after in zip(f" {text}", text, f"{text[1:]} ", strict=False):
        if character in ".," and before.isdigit() and after.isdigit():
            kept.append(".")
        elif unicodedata.category(character) == "Pd":
            # "well-known" and "well known" are the same answer, 5 and -5 aren't.
            kept.append("-" if after.isdigit() and before.isspace() else " ")
        elif character in "/:":
            kept.append(" ")
        elif character == "#" or not unicodedata.category(character).startswith("P"):
            kept.append(character)
    return "".join(kept)


def _holds(given: list[str], wanted: list[str]) -> bool:
    size = len(wanted)
    return any(given[at : at + size] == wanted for at in range(len(given) - size + 1))
