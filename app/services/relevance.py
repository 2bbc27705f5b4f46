"""How well a fact fits a question: one scorer, the same on every database.

A question is parted into names (runs of capitalised words) and plain words; question words and
other empty ones don't count. The score is the share of the question that the fact covers, where a
name weighs as much as four plain words. What shares no name must share nearly everything.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

# Measured on tests/answers/corpus.py: questions about a fact find it, unrelated ones find none.
NAME_WEIGHT = 4.0
MIN_SHARE_OF_NAME = 0.6
MIN_SCORE = 0.5
MIN_SCORE_WITHOUT_NAME = 0.75
MIN_WORDS_WITHOUT_NAME = 3
# Characters of a text whose words are kept: those of a long one are many times as large as it is.
LONGEST_KEPT = 500
# Two words are forms of one (composer, composed) when they share so much of the longer one.
MIN_SHARED_STEM = 0.7
MIN_STEM = 4

# Vowel signs and the like stand within words.
_SIGNS = "".join(c for c in map(chr, range(0x300, 0xFE30)) if unicodedata.category(c)[0] == "M")
WORD = re.compile(rf"[^\W_](?:[^\W_]|[{_SIGNS}])*")
_LATIN_ACCENTS = re.compile("([A-Za-z])[\u0300-\u036f]+")
_JOINTS = (" ", "-", "'", "’")
_EMPTY = frozenset(
    WORD.findall(
        """a about also am an and any are as at be been being but by called can could describe
        did do does done explain find for from further give had happen happened happens has have
        he her him his how i if in into is it its just kind know known like list located many
        may me might more most much my name named no not of on one or our please s say shall she
        should so some t tell than that the their them then there these they thing this those to
        us very was we were what when where which who whom whose why will with would you your"""
    )
)
# What stands before a name and is no part of it, though it has a capital at a sentence's start. Of
# any other word there it can't be said: it may be the first name that tells two people apart.
_LEADING = frozenset(
    WORD.findall(
        """according after although because before besides concerning despite during dr following
        list mr mrs ms prof regarding show since sir under unlike until whats wheres while whos
        within without"""
    )
)
# Written with a capital, but the name of nothing that a fact is about.
_DATES = frozenset(
    WORD.findall(
        """monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays
        thursdays fridays saturdays sundays january february march april june july august
        september october november december"""
    )
)


@dataclass(frozen=True)
class Word:
    """One word in the form that is compared."""

    text: str
    capital: bool
    opens: bool  # starts a sentence, where a capital says little
    joins: bool  # only a space or hyphen lies before it
    acronym: bool = False  # all capitals: US, IT and WHO aren't us, it and who


@dataclass(frozen=True)
class Text:
    """A text's words, and the names in it: runs of capitalised words."""

    words: tuple[Word, ...]

    @cached_property
    def present(self) -> frozenset[str]:
        """Every word."""
        return frozenset(word.text for word in self.words)

    @cached_property
    def capitals(self) -> frozenset[str]:
        """The words that have a capital somewhere."""
        return frozenset(word.text for word in self.words if word.capital)

    @cached_property
    def by_start(self) -> dict[str, list[str]]:
        """The words by the letters that their other forms begin with."""
        index: dict[str, list[str]] = {}
        for word in self.present:
            index.setdefault(word[:MIN_STEM], []).append(word)
        return index

    @cached_property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """Runs of capitalised words; a single one that opens a sentence is none."""
        runs: list[list[Word]] = []
        for before, word in zip((None, *self.words), self.words, strict=False):
            goes_on = bool(runs) and word.joins and before is runs[-1][-1]
            if goes_on and (word.capital or word.text.isdigit()):
                runs[-1].append(word)
            elif word.capital and (word.acronym or word.text not in _EMPTY):
                runs.append([word])
        kept = (run for run in runs if len(run) > 1 or not run[0].opens)
        return tuple(dict.fromkeys(tuple(word.text for word in run) for run in kept))

    @cached_property
    def plain(self) -> tuple[str, ...]:
        """The other words that say something, each once."""
        named = {part for name in self.names for part in name}
        words = (word.text for word in self.words)
        return tuple(dict.fromkeys(w for w in words if w not in named and w not in _EMPTY))


def drop_accents(text: str) -> str:
    """Drop the accents of Latin letters, as both full-text indexes do; others make a letter."""
    text = _LATIN_ACCENTS.sub(r"\1", unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFC", text)


def plain_form(text: str) -> str:
    """Return the text as the indexes compare it: without Latin accents, in lower case."""
    return drop_accents(text).lower()


def says_nothing(word: str) -> bool:
    """Say whether a word in plain form stands in facts about anything."""
    return word in _EMPTY


def read(text: str) -> Text:
    """Part a text into words as both full-text indexes do; of short ones the last are kept."""
    return _read_once(text) if len(text) <= LONGEST_KEPT else _read(text)


def _read(text: str) -> Text:
    text = drop_accents(text)
    shouted = text.isupper()
    words: list[Word] = []
    end = 0
    for match in WORD.finditer(text):
        gap, word, end = text[end : match.start()], match[0], match.end()
        # "Dr. Venn" goes on, "in Brack. Venn" starts anew.
        abbreviated = gap == ". " and bool(words) and words[-1].capital and len(words[-1].text) < 4
        opens = not words or (bool(re.search(r"[.!?:;\n]", gap)) and not abbreviated)
        capital = word[0].isupper() and not shouted and word.lower() not in _DATES
        acronym = len(word) > 1 and word.isupper() and not shouted
        joins = gap in _JOINTS or abbreviated
        words.append(Word(word.lower(), capital, opens, joins, acronym))
    return Text(tuple(words))


_read_once = lru_cache(2048)(_read)


def score(question: Text, fact: Text) -> float:
    """Return how much of the question the fact covers, 0 to 1; 0 also for too little to go by."""
    names, plain = _parts(question, fact)
    if not names and not plain:
        return 0.0
    # Half a name is mostly another's: its weight falls with the square, then to nothing.
    shares = [_share_of(name, fact) for name in names]
    covered = sum(NAME_WEIGHT * share**2 for share in shares if share >= MIN_SHARE_OF_NAME)
    shared = sum(has_form(word, fact) for word in plain)
    found = (covered + shared) / (NAME_WEIGHT * len(names) + len(plain))
    if covered:
        enough = found > MIN_SCORE
    elif len(plain) == 1:  # "where is glimmerfen?", but not "what is water?"
        enough = found == 1 and plain[0] in fact.capitals
    elif found == 1:  # "who discovered korvanite?"
        enough = True
    else:
        enough = shared >= MIN_WORDS_WITHOUT_NAME and found >= MIN_SCORE_WITHOUT_NAME
    return found if enough else 0.0


def may_do_without_names(question: Text) -> bool:
    """Say whether a fact can fit that has none of the question's names: by very many plain words.

    Of those it then needs more than the names weigh against them.
    """
    weight = NAME_WEIGHT * len(question.names)
    return len(question.plain) >= MIN_SCORE_WITHOUT_NAME * (weight + len(question.plain))


def indispensable(name: Sequence[str]) -> list[str]:
    """Return a few of a name's words, the longest; what has none of them hasn't enough of it."""
    spare = math.floor((1 - MIN_SHARE_OF_NAME) * len(name) + 1e-9)
    return sorted(name, key=len, reverse=True)[: spare + 1]


def stem(word: str) -> str:
    """Return the beginning that every form of the word has."""
    return word[: max(MIN_STEM, math.ceil(len(word) * MIN_SHARED_STEM))]


def _parts(question: Text, fact: Text) -> tuple[list[tuple[str, ...]], list[str]]:
    """Part the question, taking for names also what the fact writes as one.

    That is a name typed without capitals (of several words, for single ones are too often common
    words) and one whose capital opens the question.
    """
    names, plain = list(question.names), list(question.plain)
    if not names:
        typed = [name for name in fact.names if len(name) > 1 and set(name) <= set(plain)]
        opening = [(word,) for word in plain if word in question.capitals and word in fact.capitals]
        for name in typed or opening:
            names.append(name)
            plain = [word for word in plain if word not in name]
    return names, plain


def _share_of(name: Sequence[str], fact: Text) -> float:
    if len(name) > 1 and name[0] in _LEADING and name[0] not in fact.present:
        name = name[1:]
    return sum(part in fact.present for part in name) / len(name)


def has_form(word: str, fact: Text) -> bool:
    """Say whether the fact has the word or another form of it."""
    if word in fact.present:
        return True
    return len(word) >= MIN_STEM and any(
        word[:shared] == other[:shared]
        for other in fact.by_start.get(word[:MIN_STEM], ())
        for shared in [int(MIN_SHARED_STEM * max(len(word), len(other))) + 1]
    )
