"""What a clause says beside its verb: place, company, reason, manner, price or time."""

from dataclasses import dataclass
from random import Random

from tasks.starter import names
from tasks.starter.lexicon import conjugate, one, words
from tasks.starter.phrases import Phrase, named, number, plural, unnamed


@dataclass(frozen=True)
class Adjunct:
    """What stands beside a verb, with ways to ask for it: opening, ending and answer."""

    text: str
    asks: tuple[tuple[str, str, str], ...]


def adjunct(rng: Random, held: bool = False) -> Adjunct:
    """Compose a phrase of place, company, reason, manner, price or time."""
    draw = rng.random()
    if draw < 0.4:
        at = rng.choice(words("preposition_place"))
        spot = named(rng, held) if rng.random() < 0.4 else unnamed(rng)
        if rng.random() < 0.35:
            spot = Phrase(names.place(rng), "", "town")
        text = f"{at} {spot.text}"
        where = ("Where", "", text.rstrip(","))
        return Adjunct(text, (where, where, *asks_of(at, spot)))
    if draw < 0.58:
        at = rng.choice(words("preposition"))
        other = named(rng, held) if rng.random() < 0.6 else unnamed(rng)
        why = (("Why", "", f"{at} {other.said}"),) * 2 if at in words("reason") else ()
        return Adjunct(f"{at} {other.text}", (*why, *asks_of(at, other)))
    if draw < 0.66:
        return _deed(rng, held)
    if draw < 0.7:
        return _amount(rng)
    return _time(rng)


def _deed(rng: Random, held: bool) -> Adjunct:
    """Say how, why or when something is done by another deed."""
    verb = conjugate(one(rng, "verb"))
    what = (named(rng, held) if rng.random() < 0.3 else unnamed(rng)).said
    to, doing = f"{verb.base} {what}", f"{verb.gerund} {what}"
    options = (
        (f"to {to}", (("Why", "", f"to {to}"), ("What", "to do", to))),
        (f"by {doing}", (("How", "", f"by {doing}"), ("How", "", doing))),
        (f"without {doing}", (("How", "", f"without {doing}"), ("Without what", "", doing))),
        (f"after {doing}", (("When", "", f"after {doing}"), ("After what", "", doing))),
        (f"before {doing}", (("When", "", f"before {doing}"), ("Before what", "", doing))),
        (f"while {doing}", (("When", "", f"while {doing}"), ("While doing what", "", doing))),
        (f"for {doing}", (("For what", "", doing), ("What", "for", doing), ("Why", "", doing))),
    )
    return Adjunct(*rng.choice(options))


def _amount(rng: Random) -> Adjunct:
    count = rng.choice((number(rng), f"{rng.randint(1, 99)},{rng.randint(0, 999):03}"))
    money = f"{count} {plural(one(rng, 'currency'))}"
    share = f"{rng.randint(1, 95)} percent"
    options = (
        (f"for {money}", (("For how much", "", money), ("How much", "for", money))),
        (f"by {share}", (("By how much", "", share), ("How much", "", f"by {share}"))),
        (f"{count} times", (("How often", "", f"{count} times"),)),
    )
    return Adjunct(*rng.choice(options))


def _time(rng: Random) -> Adjunct:
    day, month, year = one(rng, "weekday"), one(rng, "month"), str(rng.randint(1850, 2090))
    count, unit = number(rng), rng.choice(("day", "week", "month", "year", "hour", "minute"))
    hour = f"{rng.randint(1, 12)}:{rng.randint(0, 59):02}"
    point = rng.choice((day, month, year, one(rng, "moment"), f"{month} {year}", hour))
    bound = rng.choice(("until", "since", "by", "before", "after", "from"))
    options = (
        (f"on {day}", (("When", "", f"on {day}"), ("On which day", "", day))),
        (f"in {month}", (("When", "", f"in {month}"), ("In which month", "", month))),
        (f"in {year}", (("When", "", f"in {year}"), ("In which year", "", year))),
        (f"at {hour}", (("When", "", f"at {hour}"), ("At what time", "", hour))),
        (f"{bound} {point}", ((f"{bound.capitalize()} when", "", point),)),
        (
            f"after {count} {unit}s",
            (
                ("After how long", "", f"{count} {unit}s"),
                (f"After how many {unit}s", "", count),
                ("When", "", f"after {count} {unit}s"),
            ),
        ),
        (
            f"for {count} {unit}s",
            (("How long", "", f"{count} {unit}s"), (f"For how many {unit}s", "", count)),
        ),
        (f"every {day}", (("How often", "", f"every {day}"), ("When", "", f"every {day}"))),
        (
            f"{rng.choice(('once', 'twice', f'{count} times'))} every {number(rng)} {unit}s",
            (),
        ),
    )
    text, asks = rng.choice(options)
    return Adjunct(text, asks or (("How often", "", text),))


def asks_of(at: str, phrase: Phrase) -> tuple[tuple[str, str, str], ...]:
    """Return the ways to ask for what stands behind a preposition."""
    open_, text = at[0].upper() + at[1:], phrase.said
    whom = "whom" if phrase.human else "what"
    return (
        (f"{open_} {whom}", "", text),
        (phrase.wh.capitalize(), at, text),
        (f"{open_} which {phrase.head}", "", phrase.picked),
        (f"Which {phrase.head}", at, phrase.picked),
    )
