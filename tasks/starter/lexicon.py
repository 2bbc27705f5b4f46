"""Word lists, relations and frames of the invented world, read from package data."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

_DATA = files("tasks.starter") / "data"
_DOUBLED = ("swim", "plan", "map", "trap", "ban")


@dataclass(frozen=True)
class Verb:
    """The four forms that the generator needs of one verb."""

    base: str
    past: str
    participle: str
    gerund: str


@dataclass(frozen=True)
class Relation:
    """One line of relations.txt: kinds of both ends, their phrases and special questions."""

    a: str
    b: str
    roles_a: tuple[str, ...]
    did: tuple[tuple[str, str], ...]
    done: tuple[str, ...]
    roles_b: tuple[str, ...]
    ask_b: tuple[str, ...] = ()
    ask_a: tuple[str, ...] = ()

    @property
    def ends(self) -> tuple[str, str]:
        """Return the kinds of both ends."""
        return self.a, self.b


@cache
def words(name: str) -> tuple[str, ...]:
    """Return one list of words.toml; hyphens in roles, jobs and verbs stand for blanks."""
    text = _words()[name]
    parts = [part.strip() for part in (text.split(",") if "," in text else text.split())]
    joined = name in {"role", "job", "verb"}
    return tuple(part.replace("-", " ") if joined else part for part in parts)


def frames(name: str) -> tuple[str, ...]:
    """Return one list of sentence or question frames of frames.toml."""
    return tuple(_frames()[name])


@cache
def kinds() -> dict[str, tuple[str, ...]]:
    """Map a kind of entity to the nouns that people use for it."""
    table = _frames()["kinds"]
    return {kind: tuple(nouns) for kind, nouns in table.items()}


@cache
def relations() -> tuple[Relation, ...]:
    """Parse relations.txt, whose first line explains its columns."""
    lines = (_DATA / "relations.txt").read_text().splitlines()
    return tuple(_relation(line) for line in lines if line and not line.startswith("#"))


@cache
def verbs() -> tuple[Verb, ...]:
    """Return all verbs with their forms, irregular ones as listed."""
    return tuple(conjugate(base) for base in words("verb"))


def conjugate(base: str) -> Verb:
    """Return the forms of any verb, irregular ones as listed; what follows a blank stays."""
    first, blank, rest = base.partition(" ")
    forms = _irregular().get(first) or _regular(first)
    return Verb(*(form + blank + rest for form in forms))


def article(phrase: str) -> str:
    """Put "a" or "an" before a phrase, by its first letter."""
    return f"{'an' if phrase[:1].lower() in 'aeiou' else 'a'} {phrase}"


def one(rng: Random, name: str) -> str:
    """Draw one word of a list."""
    return rng.choice(words(name))


@cache
def _irregular() -> dict[str, list[str]]:
    rows = [row.split() for row in _words()["irregular"].split(",")]
    return {row[0]: row for row in rows}


@cache
def _frames() -> dict[str, Any]:
    return tomllib.loads((_DATA / "frames.toml").read_text())


@cache
def _words() -> dict[str, str]:
    return tomllib.loads((_DATA / "words.toml").read_text())


def _regular(base: str) -> list[str]:
    if base in _DOUBLED:
        base_doubled = base + base[-1]
        return [base, f"{base_doubled}ed", f"{base_doubled}ed", f"{base_doubled}ing"]
    if base.endswith("e"):
        stem = base if base.endswith("ee") else base[:-1]
        return [base, f"{base}d", f"{base}d", f"{stem}ing"]
    if base.endswith("y") and base[-2] not in "aeou":
        return [base, f"{base[:-1]}ied", f"{base[:-1]}ied", f"{base}ing"]
    return [base, f"{base}ed", f"{base}ed", f"{base}ing"]


def _relation(line: str) -> Relation:
    columns = [column.strip() for column in line.split("|")]
    columns += [""] * (7 - len(columns))
    a, b = (end.strip() for end in columns[0].split(">"))
    did = tuple(_pair(verb) for verb in _split(columns[2], ","))
    roles_a, done, roles_b = (_split(columns[i], ",") for i in (1, 3, 4))
    return Relation(a, b, roles_a, did, done, roles_b, *(_split(c, ";") for c in columns[5:7]))


def _pair(verb: str) -> tuple[str, str]:
    past, _, base = verb.partition("/")
    return past, base


def _split(column: str, mark: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in column.split(mark) if part.strip())
