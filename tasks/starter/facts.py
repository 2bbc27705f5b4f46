"""Relation facts: all wordings and questions of one link between two names."""

from dataclasses import dataclass, field
from random import Random

from tasks.starter import names
from tasks.starter.lexicon import Relation, article, frames, kinds, one, relations, verbs, words

FORWARD, BACKWARD = "forward", "backward"
# The share of relations drawn from the list; the others are made up from any role or verb.
LISTED = 0.75


@dataclass(frozen=True)
class Question:
    """One question, its answer and its direction (forward: the subject is given)."""

    text: str
    answer: str
    direction: str


def asked(text: str, answer: str, direction: str) -> Question:
    """Make a question that begins with a capital, whatever its frame begins with."""
    return Question(text[0].upper() + text[1:], answer, direction)


@dataclass
class Fact:
    """What can be said and asked about one link; `subject` tells about itself in `phrases`."""

    subject: str
    value: str
    cores: list[str] = field(default_factory=list)
    phrases: list[str] = field(default_factory=list)
    inverse: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def who(kind: str) -> str:
    """Return the question word for a kind."""
    return "who" if kind in {"person", "character"} else "what"


def shown(rng: Random, kind: str, name: str) -> str:
    """Write a title with quotation marks half of the time, any other name plainly."""
    return f'"{name}"' if kind in names.TITLED and rng.random() < 0.5 else name


def asides(rng: Random) -> dict[str, str]:
    """Draw the words that fill the slots of leads, tails and fillers."""
    return {
        "s": one(rng, "source"),
        "w": one(rng, "weekday"),
        "m": one(rng, "month"),
        "p": names.place(rng),
        "y": str(rng.randint(1850, 2090)),
        "n": str(rng.randint(2, 400)),
        "old_p": names.person(rng),
    }


def filler(rng: Random) -> str:
    """Compose a verb phrase that says nothing to remember."""
    return rng.choice(frames("filler")).format(**asides(rng))


def draw_relation(rng: Random, end: str | None = None) -> Relation:
    """Draw a listed relation, or make one up from any role or any verb."""
    listed = [r for r in relations() if end in (None, r.a, r.b)]
    draw = rng.random()
    if draw < LISTED or (end is not None and end not in words("any_kind") and end != "person"):
        return rng.choice(listed)
    other = one(rng, "any_kind") if end in (None, "person") else end
    if draw < (1 + LISTED) / 2:
        roles = words("job") if rng.random() < 0.5 else words("role")
        return Relation("person", other, tuple(rng.sample(roles, 1)), (), (), ())
    verb = rng.choice(verbs())
    did = ((verb.past, verb.base),)
    return Relation("person", other, (), did, (f"was {verb.participle} by",), ())


@dataclass
class _Way:
    """One way to say a link, by a role or by a verb, with the questions in its own words."""

    cores: list[str]
    phrases: list[str]
    inverse: list[str]
    questions: list[Question]


def relate(
    rng: Random, relation: Relation, a: str, b: str, held: bool = False, about: str = ""
) -> Fact:
    """Write the wordings and questions of "a has this relation to b".

    All say it in one way (`about`: one that has phrases about `a` or `b`), as most questions do;
    one in four asks in other words.
    """
    kind_a, kind_b = relation.a, relation.b
    slots = {
        "a": shown(rng, kind_a, a),
        "b": shown(rng, kind_b, b),
        "ka": rng.choice(kinds()[kind_a]),
        "kb": rng.choice(kinds()[kind_b]),
        "old_a": names.fresh(rng, kind_a, held),
        "old_b": names.fresh(rng, kind_b, held),
        "who": who(kind_a),
        "Who": who(kind_a).capitalize(),
        "what": who(kind_b),
        "What": who(kind_b).capitalize(),
        "x": filler(rng),
        "x2": f"{'were' if rng.random() < 0.5 else 'are'} in the news",
    }
    slots |= {"n_ka": article(slots["ka"]), "n_kb": article(slots["kb"])}
    fact = Fact(a, b)
    ways = [*_by_role(rng, relation, fact, slots), *_by_verb(rng, relation, fact, slots)]
    fitting = [w for w in ways if {"a": w.phrases, "b": w.inverse}.get(about, w.cores)]
    if not fitting:
        return fact
    way = rng.choices(fitting, [len(w.cores) for w in fitting])[0]
    fact.cores, fact.phrases, fact.inverse = way.cores, way.phrases, way.inverse
    others = [q for other in ways if other is not way for q in other.questions]
    others += _questions(relation.ask_b, b, FORWARD, slots) + _questions(
        relation.ask_a, a, BACKWARD, slots
    )
    for direction in (FORWARD, BACKWARD) if kind_b not in names.VALUES else (FORWARD,):
        own = [q for q in way.questions if q.direction == direction]
        rest = [q for q in others if q.direction == direction]
        fact.questions += own + rng.sample(rest, min(len(rest), 1 + len(own) // 4))
    return fact


def _by_role(rng: Random, relation: Relation, fact: Fact, slots: dict[str, str]) -> list[_Way]:
    ways: list[_Way] = []
    if relation.roles_a:
        ra = rng.choice(relation.roles_a)
        slots |= {"ra": ra, "n_ra": article(ra)}
        asks = _questions(frames("ask_a_role"), fact.subject, BACKWARD, slots)
        asks += _questions(frames("ask_b_role"), fact.value, FORWARD, slots)
        phrases = _filled(("is the {ra} of {b}", "was the {ra} of {b}"), slots)
        inverse = _filled(("has {a} as its {ra}",), slots)
        ways.append(_Way(_filled(frames("role_a"), slots), phrases, inverse, asks))
    if relation.roles_b:
        rb = rng.choice(relation.roles_b)
        slots |= {"rb": rb, "n_rb": article(rb)}
        asks = _questions(frames("ask_a_role_b"), fact.subject, BACKWARD, slots)
        asks += _questions(frames("ask_b_role_b"), fact.value, FORWARD, slots)
        phrases = _filled(("has {b} for {n_rb}",), slots)
        inverse = _filled(("is the {rb} of {a}", "is {a}'s {rb}"), slots)
        ways.append(_Way(_filled(frames("role_b"), slots), phrases, inverse, asks))
    return ways


def _by_verb(rng: Random, relation: Relation, fact: Fact, slots: dict[str, str]) -> list[_Way]:
    ways: list[_Way] = []
    if relation.did:
        did, base = rng.choice(relation.did)
        slots |= {"did": did, "base": base}
        stative = not base or did.split()[0] in words("stative")
        unfit = ("{n_kb}", "the {kb}") if stative else ()
        fits = tuple(f for f in frames("did") if not any(part in f for part in unfit))
        asks = _questions(frames("ask_a_did"), fact.subject, BACKWARD, slots)
        ask_b = frames("ask_b_state") if stative else frames("ask_b_base")
        asks += _questions(ask_b, fact.value, FORWARD, slots)
        ways.append(_Way(_filled(fits, slots), _filled(("{did} {b}",), slots), [], asks))
    if relation.done:
        slots |= {"done": rng.choice(relation.done)}
        asks = _questions(frames("ask_a_done"), fact.subject, BACKWARD, slots)
        asks += _questions(frames("ask_b_done"), fact.value, FORWARD, slots)
        inverse = _filled(("{done} {a}",), slots)
        ways.append(_Way(_filled(frames("done"), slots), [], inverse, asks))
    return ways


def _filled(texts: tuple[str, ...], slots: dict[str, str]) -> list[str]:
    return [text.format(**slots) for text in texts]


def _questions(
    texts: tuple[str, ...], answer: str, direction: str, slots: dict[str, str]
) -> list[Question]:
    return [asked(text, answer, direction) for text in _filled(texts, slots)]
