"""Unique descriptions ("the patient cellist who ...") and events, from an open grammar."""

from random import Random

from tasks.starter import names
from tasks.starter.facts import BACKWARD, FORWARD, Fact, asides, asked, filler, who
from tasks.starter.lexicon import Verb, article, frames, kinds, one, verbs


def noun_phrase(rng: Random) -> str:
    """Compose the object of a deed: a thing, a group of things, or something with a name."""
    adjective, noun = one(rng, "adjective"), one(rng, "noun")
    kind = one(rng, "any_kind")
    return rng.choice(
        (
            f"the {adjective} {noun}",
            f"the {adjective} {noun}",
            f"the {noun} of {names.place(rng)}",
            article(f"{adjective} {noun}"),
            article(f"{noun} made of {one(rng, 'material')}"),
            f"the {noun} and the {one(rng, 'noun')}",
            f"{rng.randint(2, 900)} {one(rng, 'colour')} {noun}s",
            f"the {names.place(rng)} {noun}",
            f"the world's {rng.choice(('first', 'largest', 'oldest', 'fastest'))} {noun}",
            f"the {noun} {names.coined(rng)}",
            names.fresh(rng, kind),
            f'the {adjective} {noun} "{names.title(rng)}"',
            f"the {noun} {one(rng, 'noun')}",
            f"the Great {noun.capitalize()} of {rng.randint(1850, 2090)}",
        )
    )


def setting(rng: Random) -> str:
    """Compose a place, a time, a manner, or nothing."""
    return rng.choice(
        (
            "",
            "",
            "",
            f" in {names.place(rng)}",
            f" in {rng.randint(1850, 2090)}",
            f" without {article(one(rng, 'noun'))}",
            f" with {article(one(rng, 'adjective') + ' ' + one(rng, 'noun'))}",
            f" under the {one(rng, 'noun')}",
            f" for {rng.randint(2, 90)} years",
            " for the first time",
            f" in the heart of {names.place(rng)}",
            f" during the {one(rng, 'noun')}",
            f" across the {one(rng, 'adjective')} {one(rng, 'noun')}",
        )
    )


def deed(rng: Random) -> tuple[Verb, str]:
    """Draw a verb and compose its object with a setting."""
    return rng.choice(verbs()), noun_phrase(rng) + setting(rng)


def description(rng: Random, kind: str) -> tuple[str, list[str]]:
    """Compose a definite description, and questions that ask for its bearer by the deed."""
    verb, rest = deed(rng)
    head = one(rng, "role") if kind == "person" else rng.choice(kinds()[kind])
    head = f"{one(rng, 'adjective')} {head}" if rng.random() < 0.6 else head
    pronoun = rng.choice(("who", "that")) if kind == "person" else rng.choice(("that", "which"))
    asks = [f"{who(kind).capitalize()} {verb.past} {rest}?", f"Which {head} {verb.past} {rest}?"]
    draw = rng.random()
    if draw < 0.4:
        return f"the {head} {pronoun} {verb.past} {rest}", asks
    if draw < 0.55:
        return f"the {head} of {noun_phrase(rng)}", []
    if draw < 0.65:
        return f"the {head} behind {noun_phrase(rng)}", []
    if draw < 0.75:
        return f"the first {head} to {verb.base} {rest}", asks
    if draw < 0.82:
        return f"the only {head} to have {verb.participle} {rest}", asks
    if draw < 0.92:
        return f"the {head} known for {verb.gerund} {rest}", []
    return f"the {head} from {names.place(rng)} {pronoun} {verb.past} {rest}", asks


def describe(rng: Random, held: bool = False) -> Fact:
    """Write every wording and question of "this name is that description"."""
    kind = one(rng, "described_kind")
    name = names.fresh(rng, kind, held)
    text, by_deed = description(rng, kind)
    slots = {"a": name, "d": text, "x": filler(rng), "k": rng.choice(kinds()[kind])}
    slots |= {"p": names.place(rng), "who": who(kind), "Who": who(kind).capitalize()}
    fact = Fact(name, text, [frame.format(**slots) for frame in frames("describe")])
    for frame in frames("ask_description"):
        fact.questions.append(asked(frame.format(**slots), text, FORWARD))
    for question in [f.format(**slots) for f in frames("ask_described")] + by_deed * 2:
        fact.questions.append(asked(question, name, BACKWARD))
    return fact


def event(rng: Random, held: bool = False) -> Fact:
    """Write a deed with its place and time, asked for doer, object, place and time."""
    kind = rng.choice(("person", "person", "company", "team", "city", "museum", "university"))
    name, verb, thing = names.fresh(rng, kind, held), rng.choice(verbs()), noun_phrase(rng)
    fill = asides(rng)
    times = (f"in {fill['y']}", f"in {fill['m']}", f"on {fill['w']}", f"in {fill['m']} {fill['y']}")
    time, town = rng.choice(times), names.place(rng)
    place = f"in {town}"
    s = {"a": name, "v": verb.past, "pp": verb.participle, "b": thing, "t": time, "l": place}
    forms = (
        "{a} {v} {b}", "{a} {v} {b} {t}", "{a} {v} {b} {l}", "{a} {v} {b} {l} {t}",
        "{t}, {a} {v} {b}", "{t}, {a} {v} {b} {l}", "{b} was {pp} by {a}",
        "{b} was {pp} by {a} {t}", "{t}, {b} was {pp} {l} by {a}", "{l}, {a} {v} {b} {t}",
        "it was {a} that {v} {b} {t}", "{b}, {pp} by {a} {t}, {x}", "{a} has {pp} {b} {l}",
        "{b} has been {pp} by {a}", "{a} {v} {b} {t} and {x}",
    )  # fmt: skip
    form = rng.choice(forms)  # place and time must be stated to be asked, so one form is kept
    fact = Fact(name, thing, [form.format(**s, x=filler(rng))])
    ask, base = who(kind).capitalize(), verb.base
    backward = [f"{ask} {verb.past} {thing}?", f"{thing} was {verb.participle} by {who(kind)}?"]
    noun = rng.choice(kinds()[kind])
    backward += [f"Which {noun} {verb.past} {thing}?", f"By whom was {thing} {verb.participle}?"]
    backward += [f"Name the {noun} that {verb.past} {thing}."]
    fact.questions += [asked(q, name, BACKWARD) for q in backward]
    queries = [(f"What did {name} {base}?", thing), (f"{name} {verb.past} what?", thing)]
    if "{t}" in form:
        queries += [
            (f"When did {name} {base} {thing}?", time),
            (f"When was {thing} {verb.participle}?", time),
        ]
    if "{l}" in form:
        queries += [
            (f"Where did {name} {base} {thing}?", place),
            (f"In which town was {thing} {verb.participle}?", town),
        ]
    fact.questions += [asked(q, answer, FORWARD) for q, answer in queries]
    return fact
