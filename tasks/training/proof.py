"""The exams: asks a model everything that proves facts or shows what it forgot, and marks answers.

Answers are generated freely, never scored against a given text. A fact without probes is asked in
cloze form: each half of its statement has to be recovered from the other.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.lm.chat import encode_chat, encode_text
from app.lm.loading import Bundle
from app.prompts import ask
from app.scoring import Score, rouge1_recall, score, words
from tasks.training.asking import OnAsked, answer_prompts
from tasks.training.gate import Regression
from tasks.training.job import Fact, Probe, Reference
from tasks.training.objectives.masked import hide, recovery_prompt
from tasks.training.objectives.spans import covered, find_names, tokenize
from tasks.training.questions import clozes, hidden_half

# A cloze asks for half a statement, not for a name: nearly all of its words must come back.
CLOZE_RECALL = 0.8
# Room for an answer that isn't as short as the accepted one.
SPARE_TOKENS = 16


@dataclass(frozen=True)
class Exam:
    """A probe; ``text`` is the statement that a cloze was made from, or an example's response.

    ``fact_id`` is empty where no statement is asked for.
    """

    probe: Probe
    text: str = ""
    fact_id: str = ""

    def prompt(self, bundle: Bundle) -> list[int]:
        """Return the token ids that ask it."""
        if self.probe.origin != "cloze":
            return encode_chat(bundle.tokenizer, ask(self.probe.question))
        ids, offsets = tokenize(bundle.tokenizer, self.text)
        hidden = covered(offsets, *hidden_half(self.text, self.probe.direction))
        return recovery_prompt(bundle.tokenizer, hide(ids, hidden, bundle.manifest.mask_id))

    def answer_tokens(self, bundle: Bundle) -> int:
        """Return how many tokens an answer may have."""
        expected = [self.text] if self.text else self.probe.answers
        lengths = [len(encode_text(bundle.tokenizer, text)) for text in expected]
        return max(lengths) + SPARE_TOKENS

    def mark(self, answer: str) -> Score:
        """Mark an answer; of a cloze's answer only what the prompt didn't show counts.

        None of the names and numbers may be missing: all but one word can be the same in what
        another fact says.
        """
        found = score(answer, self.probe.answers)
        if self.probe.origin != "cloze":
            return found
        given, hidden = words(answer), self.probe.answers[0]
        told = tells(hidden) <= set(given)
        for word in words(self.probe.question):
            if word in given:
                given.remove(word)
        recall = rouge1_recall(given, words(hidden))
        return Score(found.exact, found.contains, recall, told and recall >= CLOZE_RECALL)


def tells(text: str) -> set[str]:
    """Return the words of a text's names, and those with a digit."""
    names = {word for start, end in find_names(text) for word in words(text[start:end])}
    return names | {word for word in words(text) if any(map(str.isdigit, word))}


def exams_of(fact: Fact) -> list[Exam]:
    """Return a fact's exams: its probes, or where it has none a cloze in each direction."""
    return [
        Exam(
            probe,
            fact.text if probe.origin == "cloze" or fact.prompt is not None else "",
            fact.id if fact.prompt is None else "",
        )
        for probe in fact.probes or clozes(fact.text)
    ]


def exam_of(row: Reference) -> Exam:
    """Return the exam of a reference question."""
    return Exam(Probe(question=row.question, answers=row.answers, direction=row.direction))


def answer_all(bundle: Bundle, exams: Sequence[Exam], on_asked: OnAsked) -> list[str]:
    """Answer every exam greedily, in order."""
    prompts = [exam.prompt(bundle) for exam in exams]
    tokens = [exam.answer_tokens(bundle) for exam in exams]
    return answer_prompts(bundle, prompts, tokens, on_asked)


def prove(fact: Fact, exams: Sequence[Exam], before: Sequence[str], after: Sequence[str]) -> Any:
    """Return a fact's entry of the result: proven when every probe is answered rightly."""
    return _entry(fact.id, mark(exams, before, after))


def find_lapsed(exams: Sequence[Exam], before: Sequence[str], after: Sequence[str]) -> list[Any]:
    """Return the entries of those facts of a sample that aren't proven any more.

    An example was never proven by itself, so it can't lapse.
    """
    probes: dict[str, list[Any]] = {}
    for exam, probe in zip(exams, mark(exams, before, after), strict=True):
        if exam.fact_id:
            probes.setdefault(exam.fact_id, []).append(probe)
    entries = [_entry(fact_id, answered) for fact_id, answered in probes.items()]
    return [entry for entry in entries if not entry["proven"]]


def mark(
    exams: Sequence[Exam], before: Sequence[str], after: Sequence[str]
) -> list[dict[str, Any]]:
    """Return each probe with both answers and the marks of the later one."""
    return [
        {**exam.probe.model_dump(), "before": was, "after": now, **asdict(exam.mark(now))}
        for exam, was, now in zip(exams, before, after, strict=True)
    ]


def control(fact: Fact, exams: Sequence[Exam], before: Sequence[str], after: Sequence[str]) -> Any:
    """Return a withdrawn fact's entry: ``known`` says that the parent's answer was right."""
    entry = prove(fact, exams, before, after)
    for probe, exam, was in zip(entry["probes"], exams, before, strict=True):
        probe["known"] = exam.mark(was).passed
    return {"id": fact.id, "probes": entry["probes"]}


def compare(exams: Sequence[Exam], before: Sequence[str], after: Sequence[str]) -> Regression:
    """Count a sample's right answers before and after, what was lost and what is said otherwise."""
    was = [exam.mark(answer).passed for exam, answer in zip(exams, before, strict=True)]
    now = [exam.mark(answer).passed for exam, answer in zip(exams, after, strict=True)]
    lost = sum(old and not new for old, new in zip(was, now, strict=True))
    flipped = sum(words(old) != words(new) for old, new in zip(before, after, strict=True))
    return Regression(len(exams), sum(was), sum(now), lost, flipped)


def _entry(fact_id: str, probes: Sequence[Any]) -> Any:
    proven = bool(probes) and all(probe["passed"] for probe in probes)
    return {"id": fact_id, "proven": proven, "probes": probes}
