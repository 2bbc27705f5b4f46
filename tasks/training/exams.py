"""All that is asked before and after a run: chosen here, and marked into its result."""

from collections.abc import Callable, Set
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from app.lm.chat import encode_text
from app.lm.loading import Bundle
from tasks.training.contradictions import contradictions
from tasks.training.data import hold_out, teachable
from tasks.training.errors import TooLong
from tasks.training.foils import foils
from tasks.training.gate import Evidence, Regression, judge
from tasks.training.job import Fact, Job
from tasks.training.proof import (
    Exam,
    compare,
    control,
    exam_of,
    exams_of,
    find_lapsed,
    mark,
    prove,
)

# Template, instruction and lead-in around a statement's two copies.
DEMASKING_TOKENS = 64


@dataclass(frozen=True)
class Exams:
    """All that is asked before and after, in one list so that it is answered together."""

    facts: list[tuple[Fact, list[Exam]]]
    kept: dict[str, list[Exam]]  # older, neighbours, reference: what must not be forgotten
    controls: list[tuple[Fact, list[Exam]]]
    foils: list[tuple[Fact, list[Exam]]] = field(default_factory=list)

    @property
    def all(self) -> list[Exam]:
        """Return every exam: of facts, older facts, the reference set, controls, and foils."""
        taught = [exam for _, exams in self.facts for exam in exams]
        withdrawn = [exam for _, exams in self.controls for exam in exams]
        foils = [exam for _, exams in self.foils for exam in exams]
        kept = [exam for exams in self.kept.values() for exam in exams]
        return taught + kept + withdrawn + foils


def set_exams(job: Job, bundle: Bundle) -> Exams:
    """Collect the exams; ``TooLong`` names facts that don't fit the context.

    Older and reference rows that don't fit are left out: they were chosen for a longer context.
    """
    held_out = hold_out(job.facts, job.head.recipe)
    facts = [
        (fact, exams_of(fact) if fact.prompt is None or fact.prompt in held_out else [])
        for fact in job.facts
    ]
    long = [
        fact.id
        for fact, exams in facts
        if not (fits(bundle, fact) and all(answerable(bundle, exam) for exam in exams))
    ]
    if long:
        most = bundle.manifest.context_length
        raise TooLong(f"{len(long)} facts don't fit the model's context of {most} tokens.", long)
    parts = {"older": "exam", "neighbours": "neighbour"}
    kept = {
        name: [exam for fact in job.older if fact.part == part for exam in exams_of(fact)]
        for name, part in parts.items()
    }
    kept["reference"] = [exam_of(row) for row in job.reference if row.part == "exam"]
    return Exams(
        facts,
        {name: [e for e in exams if answerable(bundle, e)] for name, exams in kept.items()},
        [
            (fact, [exam for exam in exams_of(fact) if answerable(bundle, exam)])
            for fact in job.controls
        ],
        [
            (fact, [exam for exam in map(Exam, foils(fact)) if answerable(bundle, exam)])
            for fact in job.facts
        ],
    )


def fits(bundle: Bundle, fact: Fact) -> bool:
    """Say whether a text fits the context twice, masked and recovered, behind its prompt."""
    text, prompt = (len(encode_text(bundle.tokenizer, t)) for t in (fact.text, fact.prompt or ""))
    return prompt + 2 * text + DEMASKING_TOKENS <= bundle.manifest.context_length


def answerable(bundle: Bundle, exam: Exam) -> bool:
    """Say whether a question leaves the context room for its answer."""
    size = len(exam.prompt(bundle)) + exam.answer_tokens(bundle)
    return size <= bundle.manifest.context_length


def assess(
    job: Job,
    exams: Exams,
    before: list[str],
    after: list[str],
    kl: float | None,
    at_base: list[str],
) -> dict[str, Any]:
    """Mark all answers and let the gate judge: the result, less digest and run metrics.

    ``at_base`` is what the base model answered to the reference questions, where it isn't the
    parent.
    """
    take = _reader(before, after)  # exams were asked in this order
    proofs = [prove(fact, asked, *take(asked)) for fact, asked in exams.facts]
    examples = settle_examples(exams, proofs, {fact.id for fact in teachable(job)})
    kept = {name: (asked, *take(asked)) for name, asked in exams.kept.items()}
    samples = {name: compare(*answered) for name, answered in kept.items()}
    if at_base:
        asked, _, now = kept["reference"]
        samples["base"] = compare(asked, at_base, now)
    against = [text for told in kept.values() for text in contradictions(job.facts, *told)]
    controls = [control(fact, asked, *take(asked)) for fact, asked in exams.controls]
    for proof, (_, asked) in zip(proofs, exams.foils, strict=True):
        proof["foils"] = [_fooled(probe) for probe in mark(asked, *take(asked))]
    proven = sum(proof["proven"] for proof in proofs)
    found = Evidence(
        len(proofs),
        proven,
        **samples,
        examples=examples,
        kl=kl,
        contradictions=list(dict.fromkeys(against)),
    )
    foils = [foil["passed"] for proof in proofs for foil in proof["foils"]]
    told = {"foils": len(foils), "foils_passed": sum(foils), "kl": kl}
    return {
        "status": "succeeded",
        "facts": proofs,
        "controls": controls,
        "lapsed": find_lapsed(*kept["older"]) + find_lapsed(*kept["neighbours"]),
        "regressions": {name: asdict(sample) for name, sample in samples.items()},
        "verdict": asdict(judge(job.head.recipe, found)),
        "metrics": {"facts": len(proofs), "proven": proven, **told},
    }


def _reader(
    before: list[str], after: list[str]
) -> Callable[[list[Exam]], tuple[list[str], list[str]]]:
    """Return what takes the next exams' answers, before and after."""
    answers = iter(zip(before, after, strict=True))

    def take(asked: list[Exam]) -> tuple[list[str], list[str]]:
        pairs = list(islice(answers, len(asked)))
        return [was for was, _ in pairs], [now for _, now in pairs]

    return take


def settle_examples(exams: Exams, proofs: list[Any], taught: Set[str]) -> Regression:
    """Mark all examples as proven by those held out, or none; return how these were answered.

    The candidate has to answer more of them rightly than its parent did, or all. One that was
    neither asked nor ``taught``, as its prompt is somebody's exam, isn't proven by the others.
    """
    pairs = list(zip(exams.facts, proofs, strict=True))
    examples = [(asked, proof) for (fact, asked), proof in pairs if fact.prompt is not None]
    held_out = [
        (exam, row)
        for asked, proof in examples
        for exam, row in zip(asked, proof["probes"], strict=True)
    ]
    before = sum(exam.mark(row["before"]).passed for exam, row in held_out)
    found = Regression(len(held_out), before, sum(row["passed"] for _, row in held_out))
    proven = found.after > found.before or 0 < found.asked == found.after
    for asked, proof in examples:
        proof["proven"] = proven and (bool(asked) or proof["id"] in taught)
    return found


def _fooled(foil: dict[str, Any]) -> dict[str, Any]:
    return {**foil, "passed": not foil["passed"]}
