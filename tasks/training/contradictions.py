"""Contradictions: new facts that say otherwise than what the model must not forget.

Found in what was asked anyway. Either a fact's own probe is a regression's question with another
answer, or a question that was answered rightly is now answered from a new fact.
"""

from collections.abc import Iterator, Sequence

from app.scoring import score, words
from tasks.training.job import Fact
from tasks.training.objectives.spans import find_names
from tasks.training.proof import Exam

# Of a question that names nothing so many of its words have to be the fact's.
SHARED = 0.6


def contradictions(
    facts: Sequence[Fact], exams: Sequence[Exam], before: Sequence[str], after: Sequence[str]
) -> list[str]:
    """Name each fact with the question that it contradicts, the right answer and the new one."""
    found: dict[str, str] = {}
    for exam, was, now in zip(exams, before, after, strict=True):
        right = exam.probe.answers[0]
        for fact in facts:
            if fact.prompt is None and fact.id not in found and exam.text != fact.text:
                for said in _said(fact, exam, was, now):
                    shown = f"“{exam.probe.question}” is “{right}”, not “{said}”"
                    found[fact.id] = f"{fact.id} contradicts what is known: {shown}"
    return list(found.values())


def _said(fact: Fact, exam: Exam, was: str, now: str) -> Iterator[str]:
    """Yield what a fact makes of a question that has another answer."""
    for probe in fact.probes:
        same = words(probe.question) == words(exam.probe.question)
        # A part of the right answer, or the right one and more, says nothing else.
        agreed = any(exam.mark(answer).passed for answer in probe.answers) or any(
            score(right, probe.answers).passed for right in exam.probe.answers
        )
        if same and not agreed:
            yield probe.answers[0]
    lost = exam.mark(was).passed and not exam.mark(now).passed
    if lost and _is_about(fact, exam.probe.question) and _says(fact, exam.probe.question, now):
        yield now


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
