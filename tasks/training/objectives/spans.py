"""Where words and names lie in a statement, in characters and in tokens."""

import random
import re
from collections.abc import Sequence
from typing import Any

from app.scoring import UNSPACED

Offsets = list[tuple[int, int]]

WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}](?:[^\W{UNSPACED}]|['’-])*")
# What a cloze counts: words with all that clings to them.
PIECE = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
# What may stand between two capitalised words of one name.
JOINED = re.compile(r"\s(?:(?:of|the|and|in|for|de|la|van|von)\s)*")
# "The" or "In" at the start of a sentence is no name.
SHORTEST_NAME = 4


def find_names(text: str) -> list[tuple[int, int]]:
    """Return start and end of each run of capitalised words, in characters."""
    runs: list[tuple[int, int]] = []
    for word in WORD.finditer(text):
        if not word[0][0].isupper():
            continue
        if runs and JOINED.fullmatch(text, runs[-1][1], word.start()):
            runs[-1] = (runs[-1][0], word.end())
        else:
            runs.append(word.span())
    return [(start, end) for start, end in runs if end - start >= SHORTEST_NAME]


def find_words(text: str) -> list[tuple[int, int]]:
    """Return start and end of each word, in characters."""
    return [word.span() for word in WORD.finditer(text)]


def word_starts(text: str, offsets: Offsets) -> list[int]:
    """Return the tokens in which words begin, and at last the one behind the last word."""
    starts, at = [], 0
    words = find_words(text)
    for first, _ in words:
        while offsets[at][1] <= first:
            at += 1
        starts.append(at)
    while words and at < len(offsets) and offsets[at][0] < words[-1][1]:
        at += 1
    return list(dict.fromkeys([*starts, at]))


def halves(text: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first and the later half of a text's words as spans of characters."""
    words = [match.span() for match in PIECE.finditer(text)]
    middle = len(words) // 2
    # Most tokenisers put the blank between two words into the token of the later one.
    return (0, words[middle - 1][1] if middle else 0), (words[middle][0], len(text))


def tokenize(tokenizer: Any, text: str) -> tuple[list[int], Offsets]:
    """Tokenise as ``encode_text`` does and say which characters each token stands for."""
    found = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    return found["input_ids"], found["offset_mapping"]


def covered(offsets: Offsets, start: int, end: int) -> set[int]:
    """Return the tokens that stand for any of these characters."""
    return {at for at, (first, last) in enumerate(offsets) if first < end and last > start}


def choose_cut(starts: Sequence[int], gap: range, rng: random.Random) -> range:
    """Choose a run of words beside a gap to be left out too; one word at least stays.

    ``starts`` are the tokens at which words begin, and the end of the last one. A question rarely
    repeats all that a statement says; what is asked must be found by a part of it.
    """
    sides = [[s for s in starts if s <= gap.start], [s for s in starts if s >= gap.stop]]
    sizes = [max(0, len(side) - 1) for side in sides]
    if sum(sizes) < 2:
        return range(0)
    place = rng.choices((0, 1), sizes)[0]
    first, last = sorted(rng.sample(range(sizes[place] + 1), 2))
    if last - first == sum(sizes):
        last -= 1
    return range(sides[place][first], sides[place][last])
