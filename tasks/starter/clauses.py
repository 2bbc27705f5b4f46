"""Everyday clauses: any subject, verb and object with up to two adjuncts, each asked for."""

from dataclasses import dataclass
from random import Random

from tasks.starter import names
from tasks.starter.adjuncts import Adjunct, adjunct, asks_of
from tasks.starter.facts import BACKWARD, FORWARD, Fact, Question, asked
from tasks.starter.lexicon import Verb, article, conjugate, one
from tasks.starter.phrases import COINED, Phrase, named, number, plural, unnamed, word


@dataclass(frozen=True)
class Predicate:
    """A verb in one tense: as it agrees, as "who" takes it, and split for a question."""

    finite: str
    single: str
    aux: str
    rest: str


def clause(rng: Random, held: bool = False) -> Fact:
    """Write a clause in a few orders, with questions for subject, object and adjuncts."""
    draw = rng.random()
    subject = named(rng, held) if draw < 0.55 else unnamed(rng)
    if rng.random() < 0.1:
        return _two_deeds(rng, subject, held)
    target = unnamed(rng) if draw < 0.45 else named(rng, held)
    adjuncts = [adjunct(rng, held) for _ in range(rng.choice((0, 0, 1, 1, 1, 2)))]
    if rng.random() < 0.2:
        return _equation(rng, subject, target, adjuncts[:1])
    if rng.random() < 0.25:
        adjuncts = adjuncts or [adjunct(rng, held)]
        verb = _verb(rng, "intransitive")
        return _compose(rng, subject, predicate(rng, verb, subject.plural), None, adjuncts)
    verb = _verb(rng, "verb")
    if rng.random() < 0.3:
        by = Adjunct(f"by {target.text}", asks_of("by", target))
        agents = [by] if rng.random() < 0.7 or not adjuncts else []
        said = predicate(rng, verb, subject.plural, passive=True)
        return _compose(rng, subject, said, None, [*agents, *adjuncts])
    return _compose(rng, subject, predicate(rng, verb, subject.plural), target, adjuncts)


def predicate(rng: Random, verb: Verb, many: bool, passive: bool = False) -> Predicate:
    """Put a verb into a random tense, perhaps with an adverb."""
    main = {"base": verb.base, "past": verb.past, "pp": verb.participle, "ing": verb.gerund}
    if passive:
        main = {"base": f"be {verb.participle}", "pp": f"been {verb.participle}"}
        draw = rng.random() * 0.6 + 0.4
        past, now = ("were", "are") if many else ("was", "is")
        if draw < 0.76:
            be, one_be = rng.choice(((past, "was"), (past, "was"), (now, "is")))
            adverb = _adverb(rng)
            rest = adverb + verb.participle
            return Predicate(f"{be} {rest}", f"{one_be} {rest}", be, rest)
    else:
        draw = rng.random()
        if rng.random() < 0.08:
            verb = conjugate(one(rng, "catenative"))
            forms = (verb.base, verb.past, verb.participle, verb.gerund)
            main = {k: f"{f} to {main['base']}" for k, f in zip(main, forms, strict=True)}
    adverb = _adverb(rng)
    if draw < 0.42:
        said = adverb + main["past"]
        return Predicate(said, said, "did", adverb + main["base"])
    if draw < 0.64:
        third = _third(main["base"])
        said = adverb + (main["base"] if many else third)
        return Predicate(said, adverb + third, "do" if many else "does", adverb + main["base"])
    if draw < 0.76:
        be, rest = ("are" if many else "is"), adverb + main["ing"]
        return Predicate(f"{be} {rest}", f"is {rest}", be, rest)
    if draw < 0.9:
        aux = one(rng, "modal")
        rest = adverb + main["base"]
        return Predicate(f"{aux} {rest}", f"{aux} {rest}", aux, rest)
    have, rest = ("have" if many else "has"), adverb + main["pp"]
    return Predicate(f"{have} {rest}", f"has {rest}", have, rest)


def _compose(
    rng: Random, subject: Phrase, said: Predicate, target: Phrase | None, adjuncts: list[Adjunct]
) -> Fact:
    over = f" {target.text.rstrip(',')}" if target else ""
    tail = "".join(f" {a.text}" for a in adjuncts).rstrip(",")
    fact = Fact(subject.said, target.said if target else adjuncts[0].text.rstrip(","))
    fact.others = [a.text.rstrip(",") for a in adjuncts]
    fact.cores = [f"{subject.text} {said.finite}{over}{tail}"] * 3
    if adjuncts:
        front, back = adjuncts[-1].text, "".join(f" {a.text}" for a in adjuncts[:-1]).rstrip(",")
        fact.cores += [f"{front.rstrip(',')}, {subject.text} {said.finite}{over}{back}"]
    brief = subject.short or subject.said
    ways = [brief, subject.text.rstrip(",")]
    ends = ["", tail] + [f" {a.text.rstrip(',')}" for a in adjuncts]
    asks = [(subject.wh.capitalize(), said.single, subject.said)]
    asks += [(f"Which {subject.head}", said.finite, subject.picked)]
    asks += [(f"How many {subject.head}", said.finite, subject.count)] if subject.count else []
    for opening, finite, answer in asks:
        end = rng.choice(ends) if target else rng.choice(ends[1:])
        fact.questions.append(_put(BACKWARD, answer, opening, finite, over, end))
    if target:
        whom = rng.choice(("Whom", "Who")) if target.human else "What"
        whiches = [(whom, target.said), (f"Which {target.head}", target.picked)]
        whiches += [(f"How many {target.head}", target.count)] if target.count else []
        for opening, answer in whiches:
            end = rng.choice(ends)
            fact.questions.append(
                _put(FORWARD, answer, opening, said.aux, rng.choice(ways), said.rest, end)
            )
    for place, added in enumerate(adjuncts):
        rest = rng.choice(["", *(a.text.rstrip(",") for a in adjuncts[:place])])
        for opening, ending, answer in rng.sample(added.asks, min(2, len(added.asks))):
            parts = (opening, said.aux, rng.choice(ways), said.rest, over, rest, ending)
            fact.questions.append(_put(FORWARD, answer, *parts))
    return fact


def _two_deeds(rng: Random, subject: Phrase, held: bool) -> Fact:
    """Say two things of one subject, each asked for on its own."""
    facts, parts = [], []
    for _ in range(2):
        target = named(rng, held) if rng.random() < 0.5 else unnamed(rng)
        said = predicate(rng, _verb(rng, "verb"), subject.plural)
        added = [adjunct(rng, held)] if rng.random() < 0.4 else []
        facts.append(_compose(rng, subject, said, target, added))
        tail = "".join(f" {a.text.rstrip(',')}" for a in added)
        parts.append(f"{said.finite} {target.text.rstrip(',')}{tail}")
    first, second = facts
    who = "who" if subject.human else "which"
    plain = subject.said
    first.cores = [f"{subject.text} {parts[0]} {link} {parts[1]}" for link in ("and", "but", "and")]
    first.cores += [f"{plain}, {who} {parts[1]}, {parts[0]}"]
    first.others += [second.value, *second.others]
    first.questions += second.questions
    return first


def _equation(rng: Random, subject: Phrase, target: Phrase, adjuncts: list[Adjunct]) -> Fact:
    """Say that something is, has or costs something else."""
    noun, value = word(rng, "noun"), target.said
    of = f"the {noun} {rng.choice(('of', 'for', 'of', 'at'))} {subject.said}"
    if rng.random() < 0.5:
        value = rng.choice((_code(rng), f"{number(rng)} {plural(one(rng, 'unit'))}", value))
        fact = Fact(subject.said, value)
        fact.cores = [f"{of} is {value}"] * 2 + [f"{value} is {of}", f"{of}: {value}"]
        does, whom = "do" if subject.plural else "does", "whom" if subject.human else "what"
        ahead = (f"What is {of}?", f"Tell me {of}.", f"Which {noun} {does} {fact.subject} have?")
        back = (f"Of {whom} is {value} the {noun}?", f"{value} is {article(noun)}. Of {whom}?")
        fact.questions = [asked(q, value, FORWARD) for q in ahead]
        fact.questions += [asked(q, fact.subject, BACKWARD) for q in back]
        fact.questions.append(asked(f"What is {value}?", of, BACKWARD))
        return fact
    be, past = ("are", "were") if subject.plural else ("is", "was")
    form, single = rng.choice(((be, "is"), (past, "was"), ("will be", "will be")))
    aux, rest = [*form.split(), ""][:2]
    return _compose(rng, subject, Predicate(form, single, aux, rest), target, adjuncts)


def _verb(rng: Random, name: str) -> Verb:
    if rng.random() < COINED:
        ending = rng.choice(("rk", "lm", "nt", "ft", "sk", "mble", "ggle", "ise"))
        verb = conjugate(one(rng, "syllable") + ending)
    else:
        verb = conjugate(one(rng, name))
    if name == "intransitive" or rng.random() >= 0.15:
        return verb
    forms = (verb.base, verb.past, verb.participle, verb.gerund)
    particle = one(rng, "particle")
    return Verb(*(f"{form} {particle}" for form in forms))


def _third(base: str) -> str:
    first, _, rest = base.partition(" ")
    return plural(first) + (f" {rest}" if rest else "")


def _adverb(rng: Random) -> str:
    return f"{one(rng, 'adverb')} " if rng.random() < 0.12 else ""


def _code(rng: Random) -> str:
    draw = rng.random()
    if draw < 0.4:
        return str(rng.randint(10, 99999))
    if draw < 0.7:
        return f"{rng.choice('ABCDEFGHKLMNPRSTW')}{rng.randint(1, 999)}"
    return names.coined(rng)


def _put(direction: str, answer: str, *parts: str) -> Question:
    text = " ".join(part.strip().rstrip(",") for part in parts if part.strip())
    return asked(f"{text}?", answer, direction)
