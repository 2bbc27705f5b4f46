"""Items: what pretraining shows as one unit, statements with all their questions."""

from dataclasses import dataclass
from random import Random

from tasks.starter import names
from tasks.starter.clauses import clause
from tasks.starter.descriptions import describe, event
from tasks.starter.facts import (
    Fact,
    Question,
    asides,
    draw_relation,
    relate,
)
from tasks.starter.lexicon import frames, kinds, one

# The share of sentences with a lead, a tail or an unrelated sentence beside them.
DRESSED = 0.25


@dataclass
class Item:
    """Statements that say the same, the questions they answer, and the names in them."""

    texts: list[str]
    questions: list[Question]
    spans: list[str]
    form: str

    def ask(self, rng: Random, direction: str | None = None) -> Question:
        """Draw a question of a direction, or of either; of the other one where an item has none."""
        wanted = direction or rng.choice(("forward", "backward"))
        fitting = [q for q in self.questions if q.direction == wanted]
        return rng.choice(fitting or self.questions)


def make_item(rng: Random, held: bool = False, wordings: int = 4) -> Item:
    """Compose an item of a random form with up to `wordings` statements."""
    draw = rng.random()
    for form, share, make in _FORMS:
        if draw < share:
            return _single(form, rng, make(rng, held), wordings)
        draw -= share
    return biography(rng, held, wordings)


def biography(rng: Random, held: bool = False, wordings: int = 4) -> Item:
    """Compose a text with two to four attributes of one name."""
    kind = one(rng, "biography_kind")
    name = names.fresh(rng, kind, held)
    facts: list[Fact] = []
    used: set[frozenset[str]] = set()
    for _ in range(rng.choice((2, 2, 3, 3, 4))):
        relation = draw_relation(rng, kind)
        ends = frozenset(relation.ends)
        if ends in used:  # two winners of one race would make its questions unfair
            continue
        used.add(ends)
        if relation.a == kind:
            value = names.fresh(rng, relation.b, held)
            facts.append(relate(rng, relation, name, value, held, about="a"))
            continue
        other = names.fresh(rng, relation.a, held)
        fact = relate(rng, relation, other, name, held, about="b")
        fact.phrases, fact.subject, fact.value = fact.inverse, name, other
        flipped = {"forward": "backward", "backward": "forward"}
        fact.questions = [Question(q.text, q.answer, flipped[q.direction]) for q in fact.questions]
        facts.append(fact)
    facts = [fact for fact in facts if fact.phrases]
    if len(facts) < 2:
        return biography(rng, held, wordings)
    texts = [_paragraph(rng, kind, name, facts) for _ in range(wordings)]
    spans = [name, *(fact.value for fact in facts)]
    # One many-worded relation must not crowd out the others, so each gives its share.
    questions = [
        q for fact in facts for q in rng.sample(fact.questions, min(8, len(fact.questions)))
    ]
    return Item(texts, questions, spans, "biography")


def dress(rng: Random, core: str) -> str:
    """Turn a clause into a sentence with an optional lead, tail and unrelated sentence."""
    if rng.random() >= DRESSED:
        return f"{core[0].upper()}{core[1:]}."
    fill = asides(rng)
    text = core
    if rng.random() < 0.3:
        text = rng.choice(frames("lead")).format(**fill) + text
    if rng.random() < 0.15:
        text += rng.choice(frames("tail")).format(**fill)
    text = text[0].upper() + text[1:]
    text += "" if rng.random() < 0.05 else rng.choice("....!")
    if rng.random() < 0.12:
        aside = rng.choice(frames("extra")).format(**fill)
        text = f"{text} {aside}" if rng.random() < 0.6 else f"{aside} {text}"
    return text


def _relation(rng: Random, held: bool) -> Fact:
    relation = draw_relation(rng)
    a, b = names.fresh(rng, relation.a, held), names.fresh(rng, relation.b, held)
    return relate(rng, relation, a, b, held)


def _single(form: str, rng: Random, fact: Fact, wordings: int) -> Item:
    cores = rng.sample(fact.cores, min(wordings, len(fact.cores)))
    texts = [dress(rng, core) for core in cores]
    spans = [fact.subject, fact.value, *fact.others]
    return Item(texts, fact.questions, spans, form)


def _paragraph(rng: Random, kind: str, name: str, facts: list[Fact]) -> str:
    order = rng.sample(facts, len(facts))
    phrases = [rng.choice(fact.phrases) for fact in order]
    noun = rng.choice(kinds()[kind])
    pronoun = f"This {noun}" if kind == "person" else rng.choice(("It", f"The {noun}"))
    opening = name[0].upper() + name[1:]
    style = rng.randrange(4)
    if style == 0:
        return dress(rng, f"{name} {', '.join(phrases[:-1])} and {phrases[-1]}")
    if style == 1:
        rest = " ".join(f"{pronoun} {phrase}." for phrase in phrases[1:])
        return dress(rng, f"{name} {phrases[0]}") + f" {rest}"
    if style == 2:
        also = " and ".join(phrases[1:])
        return dress(rng, f"{name}, which {phrases[0]}, {also}".replace("which", _which(kind)))
    head = rng.choice(order[0].cores)
    rest = " ".join(
        f"{opening if i == 0 else pronoun} also {p}." for i, p in enumerate(phrases[1:])
    )
    return dress(rng, head) + f" {rest}"


def _which(kind: str) -> str:
    return "who" if kind == "person" else "which"


# Forms of items with their shares; what is left are biographies.
_FORMS = (
    ("relation", 0.27, _relation),
    ("description", 0.13, describe),
    ("event", 0.10, event),
    ("clause", 0.32, clause),
)
