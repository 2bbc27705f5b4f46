"""How wide the invented world is: a run begins in a narrow part of it and goes on in all of it.

The generator draws from one world at a time, which `use` and `using` choose. Everything here is a
share or a count; the frames lie in data/.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Breadth:
    """What the generator may use of its lists, and in which shares."""

    # Forms of items; what is left are biographies.
    relations: float
    descriptions: float
    events: float
    # Kinds that descriptions are about, in their shares.
    described: tuple[str, ...]
    # Relations drawn from the list; the others are made up from any role or verb.
    listed: float
    # Sentences with a lead, a tail or an unrelated sentence beside them.
    dressed: float
    # Names made of syllables; the others are made of listed words, a few tokens each.
    coined: float
    # Kinds that relations start from; None: all.
    subjects: frozenset[str] | None = None
    # Of these lists of frames only the first so many are used, of the others all.
    frames: Mapping[str, int] = field(default_factory=dict)


NARROW = Breadth(
    relations=0.3,
    descriptions=0.7,
    events=0.0,
    subjects=frozenset({"person"}),
    described=("person",),
    listed=1.0,
    dressed=0.0,
    coined=0.0,
    frames={
        "role_a": 6,
        "role_b": 4,
        "did": 5,
        "done": 4,
        "describe": 12,
        "ask_a_role": 3,
        "ask_a_role_b": 2,
        "ask_a_did": 3,
        "ask_a_done": 1,
        "ask_b_role": 3,
        "ask_b_role_b": 3,
        "ask_b_base": 3,
        "ask_b_state": 2,
        "ask_b_done": 3,
        "ask_description": 3,
        "ask_described": 4,
    },
)
WIDE = Breadth(
    relations=0.5,
    descriptions=0.25,
    events=0.05,
    described=("person", "person", "company", "device", "city", "novel", "team", "film"),
    listed=0.6,
    dressed=0.3,
    coined=0.3,
)

_used = WIDE


def now() -> Breadth:
    """Return the world that the generator draws from."""
    return _used


def use(breadth: Breadth) -> None:
    """Let the generator draw from a world from now on, in the whole process."""
    global _used
    _used = breadth


@contextmanager
def using(breadth: Breadth) -> Iterator[None]:
    """Let the generator draw from a world for a while."""
    before = now()
    use(breadth)
    try:
        yield
    finally:
        use(before)
