"""Contradictions: new facts that say otherwise than what the model must not forget.

Found in what was asked anyway. Either a fact's own probe is a regression's question with another
answer, or a question that was answered rightly is now answered from a new fact.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from app.scoring import score, words
from tasks.training.job import Fact, Probe
from tasks.training.objectives.spans import find_names
from tasks.training.proof import Exam

# Of a question that names nothing so many of its words have to be the fact's.
SHARED = 0.6


def contradictions(
    facts: Sequence[Fact], exams: Sequence[Exam], before: Sequence[str], after: Sequence[str]
) -> list[str]:
    """Name each fact with the question that it contradicts, the right answer and the new one.

    Clozes are left out: more than one statement may go on, or begin, as another does.
    """
    statements = [fact for fact in facts if fact.prompt is None]
    asked: dict[tuple[str, ...], list[tuple[Fact, Probe]]] = defaultdict(list)
    for fact in statements:
        for probe in fact.probes:
            if probe.origin != "cloze":
                asked[tuple(words(probe.question))].append((fact, probe))
    found: dict[str, str] = {}
    for exam, was, now in zip(exams, before, after, strict=True):
        if exam.probe.origin == "cloze":
            continue
        same = asked.get(tuple(words(exam.probe.question)), [])
        for fact, said in (*_told(same, exam), *_instead(statements, exam, was, now)):
            if exam.text != fact.text:
                shown = f"“{exam.probe.question}” is “{exam.probe.answers[0]}”, not “{said}”"
                found.setdefault(fact.id, f"{fact.id} contradicts what is known: {shown}")
    return list(found.values())


def _told(same: Sequence[tuple[Fact, Probe]], exam: Exam) -> Iterator[tuple[Fact, str]]:
    """Yield the facts whose probe is the same question, and answered otherwise."""
    for fact, probe in same:
        # A part of the right answer, or the right one and more, says nothing else.
        agreed = any(exam.mark(answer).passed for answer in probe.answers) or any(
            score(right, probe.answers).passed for right in exam.probe.answers
        )
        if not agreed:
            yield fact, probe.answers[0]


def _instead(facts: Sequence[Fact], exam: Exam, was: str, now: str) -> Iterator[tuple[Fact, str]]:
    """Yield the facts that a question was answered from in place of its right answer."""
    if exam.mark(was).passed and not exam.mark(now).passed:
        for fact in facts:
            question = exam.probe.question
            if _is_about(fact, question) and _says(fact, question, now):
                yield fact, now


def _is_about(fact: Fact, question: str) -> bool:
    statement = set(words(fact.text))
    _, _, rest = question.partition(" ")  # "What" opens a question and is no name
    names = [set(words(rest[start:end])) for start, end in find_names(rest)]
    if names:
        return all(name <= statement for name in names)
    asked = words(question)
    return sum(word in statement for word in asked) >= SHARED * len(asked)


def _says(fact: Fact, question: str, answer: str) -> bool:
    added = set(words(answer)) - set(words(question))
    return bool(added) and added <= set(words(fact.text))
