"""Noun phrases of everyday language, named or not, with the words that ask for them."""

from dataclasses import dataclass
from random import Random

from tasks.starter import names
from tasks.starter.lexicon import article, kinds, one, words

# The share of words that no list has; only their shape and place tell what they do.
COINED = 0.12


@dataclass(frozen=True)
class Phrase:
    """A noun phrase, shorter ways to say it, the noun that stands for it, and how it agrees.

    `count` is its number, where it has one; with `bare`, the name alone answers "which".
    """

    text: str
    short: str
    head: str
    human: bool = False
    plural: bool = False
    count: str = ""
    bare: bool = False

    @property
    def wh(self) -> str:
        """Return the question word for it as a subject."""
        return "who" if self.human else "what"

    @property
    def said(self) -> str:
        """Return it as an answer, without the aside that some names have."""
        return self.short if self.text.endswith(",") else self.text

    @property
    def picked(self) -> str:
        """Return it as the answer to "which" with its head noun."""
        return self.short if self.bare else self.said


def word(rng: Random, name: str) -> str:
    """Draw a word of a list, or make one up."""
    if rng.random() >= COINED:
        return one(rng, name)
    stem = "".join(one(rng, "syllable") for _ in range(rng.choice((1, 1, 2))))
    return stem + rng.choice(("k", "m", "nt", "rd", "sh", "lt", "p", "ng", "st", "b"))


def plural(noun: str) -> str:
    """Return the plural of a regular noun."""
    if noun.endswith(("s", "x", "ch", "sh", "z")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeou" else noun + "s"


def number(rng: Random, low: int = 2) -> str:
    """Write a small number in words or digits."""
    return one(rng, "count") if rng.random() < 0.5 else str(rng.randint(low, 90))


def named(rng: Random, held: bool = False) -> Phrase:
    """Compose a phrase that is or holds a name, sometimes two names."""
    draw = rng.random()
    if draw < 0.05:
        both = _person(rng, held).said, _person(rng, held).said
        return Phrase(" and ".join(both), "", "people", human=True, plural=True)
    if draw < 0.45:
        return _person(rng, held)
    kind = one(rng, "any_kind")
    name, noun = names.fresh(rng, kind, held), rng.choice(kinds()[kind])
    thing = word(rng, "noun")
    draw = rng.random()
    if draw < 0.4:
        return Phrase(name, name, noun)
    if draw < 0.55:
        full = f"the {_modified(rng, thing)} of {name}"
        return Phrase(full, f"the {thing} of {name}", thing)
    if draw < 0.7:
        owner = name if rng.random() < 0.6 else names.fresh(rng, "person", held)
        return Phrase(f"{owner}'s {_modified(rng, thing)}", f"{owner}'s {thing}", thing)
    if draw < 0.85:
        spot = f"{rng.choice(('at', 'in', 'from', 'for', 'to', 'near'))} {name}"
        return Phrase(f"the {_modified(rng, thing)} {spot}", f"the {thing} {spot}", thing)
    if draw < 0.92:
        start = rng.choice(("the", "its", "our", "their", "the"))
        return Phrase(f"{start} {_modified(rng, thing)} {name}", name, thing, bare=True)
    called = rng.choice(("called", "named", "known as"))
    full = article(f"{_modified(rng, thing)} {called} {name}")
    return Phrase(full, name, thing, bare=True)


def unnamed(rng: Random) -> Phrase:
    """Compose a phrase of common words."""
    noun = word(rng, "noun")
    draw = rng.random()
    if draw < 0.12:
        return Phrase(f"the {_modified(rng, word(rng, 'role'))}", "", "person", human=True)
    if draw < 0.32:
        many = plural(noun)
        start = rng.choice(("", "", "all ", "the ", "most ", "some ", "our ", "its ", "old "))
        full = start + _modified(rng, many)
        return Phrase(full, full, many, plural=True)
    if draw < 0.4:
        count = number(rng)
        full = f"{count} {_modified(rng, plural(noun))}"
        return Phrase(full, full, plural(noun), plural=True, count=count)
    if draw < 0.44:
        full = f"the {_modified(rng, noun)} and the {_modified(rng, word(rng, 'noun'))}"
        return Phrase(full, full, "things", plural=True)
    start = rng.choice(("the",) * 9 + ("our", "our", "its", "their", "every", "this", "your"))
    full = f"{start} {_modified(rng, noun)}"
    draw = rng.random()
    if draw < 0.3:
        other = _modified(rng, word(rng, "noun"))
        link = rng.choice(("of the", "for the", "in the", "from the", "behind the", "with the"))
        return Phrase(f"{full} {link} {other}", full, noun)
    if draw < 0.38:
        return Phrase(f"{start} {noun} {rng.randint(2, 90)}", "", noun)
    return Phrase(full, f"{start} {noun}", noun)


def _person(rng: Random, held: bool) -> Phrase:
    name = names.fresh(rng, "person", held)
    draw = rng.random()
    role = word(rng, "role")
    if draw < 0.6:
        return Phrase(name, name, "person", human=True)
    if draw < 0.7:
        return Phrase(f"{rng.choice(words('honorific'))} {name.split()[-1]}", "", "person", True)
    if draw < 0.85:
        return Phrase(f"{role} {name}", name, role, human=True, bare=True)
    aside = article(role) if rng.random() < 0.5 else f"the {role}"
    return Phrase(f"{name}, {aside},", name, role, human=True)


def _modified(rng: Random, noun: str) -> str:
    draw = rng.random()
    if draw < 0.35:
        return f"{word(rng, 'adjective')} {noun}"
    return f"{word(rng, 'noun')} {noun}" if draw < 0.55 else noun
