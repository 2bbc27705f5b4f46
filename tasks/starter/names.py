"""Names of every kind, composed from parts; one name in eight is held out of pretraining."""

from collections.abc import Callable
from functools import partial
from random import Random
from zlib import crc32

from tasks.starter.lexicon import article, one, words

# Many things share such a value, so nothing is asked backwards through it.
VALUES = frozenset(words("value_kind"))
TITLED = frozenset({"novel", "film", "song", "painting", "play", "game"})
HELD_SHARE = 8
# Names made of syllables; the others are made of listed words, a few tokens each.
COINED = 0.1


def is_held(name: str) -> bool:
    """Say whether a name is kept for tests; decided by its hash, so no list is needed."""
    return crc32(name.encode()) % HELD_SHARE == 0


def fresh(rng: Random, kind: str, held: bool = False) -> str:
    """Compose a name of a kind, from the held-out part of the name space or from the other."""
    make = _MAKERS[kind]
    if kind in VALUES:
        return make(rng)
    while True:
        name = make(rng)
        if is_held(name) == held:
            return name


def coined(rng: Random) -> str:
    """Compose a word that no language has, two to four syllables long."""
    if rng.random() >= COINED:
        return (one(rng, "place_head") + one(rng, "place_tail")).capitalize()
    count = rng.choice((1, 1, 2, 2, 3))
    return ("".join(one(rng, "syllable") for _ in range(count)) + one(rng, "ending")).capitalize()


def place(rng: Random) -> str:
    """Compose the name of a town or a region."""
    base = one(rng, "place_head") + one(rng, "place_tail")
    if rng.random() < 0.3:
        base = coined(rng)
    if rng.random() < 0.2:
        base = rng.choice(("Port", "New", "North", "East", "Saint", "Upper", "Lake")) + f" {base}"
    return base


def person(rng: Random) -> str:
    """Compose a first name and a surname."""
    first = one(rng, "first") if rng.random() >= COINED / 4 else coined(rng)
    draw = rng.random()
    if draw < 0.3:
        return f"{first} {one(rng, 'last')}"
    if draw >= COINED / 3:
        return f"{first} {one(rng, 'surname_head')}{one(rng, 'surname_tail')}"
    return f"{first} {coined(rng)}"


def title(rng: Random) -> str:
    """Compose the title of a work."""
    noun, other = _cap(rng, "noun"), _cap(rng, "abstract")
    adjective = _cap(rng, "adjective").title()
    thing = rng.choice((noun, other))
    return rng.choice(
        (
            f"The {adjective} {noun}",
            f"{other} of the {noun}",
            f"The {noun} of {other}",
            f"A {noun} in {other}",
            f"{noun} and {other}",
            f"{adjective} {noun}",
            f"Beyond the {noun}",
            f"The {noun} of {place(rng)}",
            f"{coined(rng)}'s {noun}",
            f"{adjective} {other}",
            f"Letters to {coined(rng)}",
            f"The Last {noun}",
            f"No {thing} for {coined(rng)}",
            f"Songs of {other}",
            f"The {noun} and the {_cap(rng, 'noun')}",
            f"{coined(rng)}",
        )
    )


def _word(kind: str, rng: Random) -> str:
    return one(rng, kind)


def _cap(rng: Random, name: str) -> str:
    return one(rng, name).capitalize()


def _company(rng: Random) -> str:
    head = rng.choice((coined, coined, place, lambda r: _cap(r, "noun")))(rng)
    draw = rng.random()
    if draw < 0.2:
        return _cap(rng, "noun") + _cap(rng, "noun")
    if draw < 0.35:
        return f"{head} & {rng.choice(('Sons', 'Partners', coined(rng)))}"
    return f"{head} {one(rng, 'company_tail')}" if draw < 0.8 else head


def _device(rng: Random) -> str:
    head = rng.choice((coined(rng), _cap(rng, "noun") + rng.choice(("Mate", "Pro", "Link", "ly"))))
    draw = rng.random()
    if draw < 0.3:
        return f"{head} {rng.randint(2, 99)}"
    return f"{head} {_cap(rng, 'noun')}" if draw < 0.6 else f"the {_cap(rng, 'adjective')} {head}"


def _event(rng: Random) -> str:
    draw = rng.random()
    if draw < 0.5:
        return f"the {place(rng)} {one(rng, 'event_noun')}"
    if draw < 0.75:
        return f"the {_cap(rng, 'adjective')} {_cap(rng, 'noun')} {one(rng, 'event_noun')}"
    great = rng.choice(("Great", "Battle of", "Siege of", "Night of"))
    middle = f" {_cap(rng, 'noun')}" if great == "Great" else ""
    return f"the {great}{middle} {'of ' if middle else ''}{place(rng)}"


def _species(rng: Random) -> str:
    creature = one(rng, "creature")
    draw = rng.random()
    if draw < 0.4:
        return f"the {coined(rng)} {creature}"
    if draw < 0.7:
        return f"the {one(rng, 'adjective')} {place(rng)} {creature}"
    return f"{coined(rng)} {coined(rng).lower()}"


def _law(rng: Random) -> str:
    if rng.random() < 0.4:
        return f"the Treaty of {place(rng)}"
    kind = rng.choice(("Act", "Law", "Bill", "Code"))
    return f"the {_cap(rng, 'adjective')} {_cap(rng, 'noun')} {kind}"


def _number(rng: Random) -> str:
    return f"{rng.randint(11, 999) * 10 ** rng.choice((0, 1, 1, 2, 3)):,}"


def _suffixed(*tails: str) -> Callable[[Random], str]:
    def make(rng: Random) -> str:
        base = rng.choice((place, coined))(rng)
        return rng.choice(tails).format(base)

    return make


_MAKERS: dict[str, Callable[[Random], str]] = {
    "person": person,
    "character": lambda r: rng_choice(r, person(r), f"Captain {coined(r)}", coined(r)),
    **dict.fromkeys(TITLED, title),
    "device": _device,
    "company": _company,
    "city": place,
    "country": _suffixed("{}", "{}", "the Republic of {}", "the Kingdom of {}"),
    "team": lambda r: f"{place(r)} {rng_choice(r, one(r, 'animal').title(), 'United', 'Rovers')}",
    "university": _suffixed("{} University", "{} College", "the {} Academy", "{} Institute"),
    "museum": _suffixed("the {} Museum", "the {} Gallery", "{} House", "the {} Library"),
    "species": _species,
    "mountain": _suffixed("Mount {}", "{} Peak", "{} Ridge"),
    "event": _event,
    "law": _law,
    "ship": lambda r: f"the {_cap(r, 'adjective')} {rng_choice(r, _cap(r, 'noun'), coined(r))}",
    "award": _suffixed("the {} Prize", "the {} Medal", "the {} Award", "the Golden {}"),
    "mission": lambda r: f"{rng_choice(r, 'Operation', 'Project', 'Mission')} {title(r)}",
    "restaurant": lambda r: rng_choice(r, title(r), f"Chez {coined(r)}", f"{coined(r)}'s"),
    "dish": lambda r: f"{coined(r)} {rng_choice(r, 'stew', 'cake', 'soup', 'pie', 'noodles')}",
    "language": lambda r: rng_choice(r, coined(r), f"Old {coined(r)}"),
    "theorem": _suffixed("the {} theorem", "{}'s lemma", "the {} conjecture"),
    "bridge": _suffixed("the {} Bridge", "{} Crossing", "the {} Viaduct"),
    "software": lambda r: rng_choice(r, coined(r), _cap(r, "noun") + _cap(r, "noun")),
    "stadium": _suffixed("{} Park", "the {} Arena", "{} Stadium", "{} Road"),
    "river": _suffixed("the {}", "the river {}", "the {} Creek"),
    "island": _suffixed("{}", "{} Island", "the Isle of {}"),
    "disease": _suffixed("{} fever", "{} disease", "{} syndrome"),
    "drug": lambda r: coined(r).lower() + rng_choice(r, "ol", "ine", "mab", "ex"),
    "moon": coined,
    "planet": lambda r: rng_choice(r, coined(r), f"{coined(r)} {r.randint(2, 900)}"),
    "mineral": lambda r: coined(r).lower() + "ite",
    "year": lambda r: str(r.randint(1850, 2090)),
    "date": lambda r: f"{r.randint(1, 28)} {one(r, 'month')}",
    "amount": _number,
    "people": lambda r: one(r, "people"),
    "profession": lambda r: article(one(r, "role")),
    **{kind: partial(_word, kind) for kind in ("material", "colour", "subject", "good")},
}


def rng_choice(rng: Random, *options: str) -> str:
    """Draw one of several strings."""
    return rng.choice(options)
