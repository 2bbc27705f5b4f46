"""One run, from the parent's answers to the sealed checkpoint and the gate's verdict."""

import json
import resource
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from app.errors import DomainError
from app.lm import store
from app.lm.chat import encode_chat, encode_text
from app.lm.generation import generate
from app.lm.loading import Bundle
from app.prompts import ask
from tasks.training.data import Lessons, replayed
from tasks.training.errors import BadParent, OutOfMemory, TooLong
from tasks.training.gate import judge
from tasks.training.job import Events, Fact, Job
from tasks.training.loop import Step, train
from tasks.training.method import Trainee, load_parent, prepare
from tasks.training.progress import Clock, Progress
from tasks.training.proof import Exam, answer_all, compare, control, exam_of, exams_of, prove

# A replayed answer is the parent's own, cut where nobody would read on.
REPLAYED_ANSWER_TOKENS = 48
# Template, instruction and lead-in around a statement's two copies.
DEMASKING_TOKENS = 64


@dataclass(frozen=True)
class Exams:
    """All that is asked before and after, in one list so that it is answered together."""

    facts: list[tuple[Fact, list[Exam]]]
    older: list[Exam]
    reference: list[Exam]
    controls: list[tuple[Fact, list[Exam]]]

    @property
    def all(self) -> list[Exam]:
        """Return every exam: of the facts, of older facts, of the reference set, of controls."""
        taught = [exam for _, exams in self.facts for exam in exams]
        withdrawn = [exam for _, exams in self.controls for exam in exams]
        return taught + self.older + self.reference + withdrawn


def run(job: Job, events: Events) -> dict[str, Any]:
    """Do the job and return its result; leaves the sealed checkpoint in ``checkpoint/``.

    Raises a ``TrainingError`` where the run can't give one.
    """
    try:
        return _run(job, events)
    except DomainError as error:
        raise BadParent(error.detail) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(f"Out of memory: {error}") from error


def _run(job: Job, events: Events) -> dict[str, Any]:
    recipe, folder = job.head.recipe, job.folder / "checkpoint"
    clock = Clock(events)
    clock.start("preparing")
    bundle = load_parent(job.head.store, job.head.parent, recipe)
    exams = set_exams(job, bundle)
    before = answer_all(bundle, exams.all, clock.tell_asked)
    lessons = plan_lessons(job, bundle)
    trainee = prepare(bundle, recipe, job.head.store)
    clock.start("training")
    progress = Progress(events)
    train(trainee.bundle, lessons, recipe, on_step=progress)
    clock.start("proving")
    trainee.save(folder)
    after = answer_all(trainee.bundle, exams.all, clock.tell_asked)
    result = assess(job, exams, before, after)
    result["digest"] = seal(job, trainee, folder, progress.steps)
    result["metrics"] |= measure(progress.steps) | clock.seconds()
    return result


def set_exams(job: Job, bundle: Bundle) -> Exams:
    """Collect the exams; ``TooLong`` names facts that don't fit the context.

    Older and reference rows that don't fit are left out: they were chosen for a longer context.
    """
    facts = [(fact, exams_of(fact)) for fact in job.facts]
    long = [
        fact.id
        for fact, exams in facts
        if not (fits(bundle, fact.text) and all(answerable(bundle, exam) for exam in exams))
    ]
    if long:
        most = bundle.manifest.context_length
        raise TooLong(f"{len(long)} facts don't fit the model's context of {most} tokens.", long)
    older = [exam for fact in job.older if fact.part == "exam" for exam in exams_of(fact)]
    reference = [exam_of(row) for row in job.reference if row.part == "exam"]
    return Exams(
        facts,
        [exam for exam in older if answerable(bundle, exam)],
        [exam for exam in reference if answerable(bundle, exam)],
        [
            (fact, [exam for exam in exams_of(fact) if answerable(bundle, exam)])
            for fact in job.controls
        ],
    )


def plan_lessons(job: Job, bundle: Bundle) -> Lessons:
    """Choose what is taught; the parent answers the replayed questions itself."""
    if job.head.recipe.replay_share == 0:
        return Lessons(job.facts)
    statements, questions = replayed(job)
    room = bundle.manifest.context_length - REPLAYED_ANSWER_TOKENS
    prompts = [(text, encode_chat(bundle.tokenizer, ask(text))) for text in questions]
    prompts = [(text, prompt) for text, prompt in prompts if len(prompt) <= room]
    answers = generate(bundle, [prompt for _, prompt in prompts], REPLAYED_ANSWER_TOKENS)
    return Lessons(
        job.facts,
        [text for text in statements if fits(bundle, text)],
        [(text, answer) for (text, _), answer in zip(prompts, answers, strict=True) if answer],
    )


def fits(bundle: Bundle, text: str) -> bool:
    """Say whether a statement fits the context twice, masked and recovered."""
    size = len(encode_text(bundle.tokenizer, text))
    return 2 * size + DEMASKING_TOKENS <= bundle.manifest.context_length


def answerable(bundle: Bundle, exam: Exam) -> bool:
    """Say whether a question leaves the context room for its answer."""
    size = len(exam.prompt(bundle)) + exam.answer_tokens(bundle)
    return size <= bundle.manifest.context_length


def assess(job: Job, exams: Exams, before: list[str], after: list[str]) -> dict[str, Any]:
    """Mark all answers and let the gate judge: the result, less digest and run metrics."""
    # Exams were asked in this order.
    answers = iter(zip(before, after, strict=True))

    def take(asked: list[Exam]) -> tuple[list[str], list[str]]:
        pairs = list(islice(answers, len(asked)))
        return [was for was, _ in pairs], [now for _, now in pairs]

    proofs = [prove(fact, asked, *take(asked)) for fact, asked in exams.facts]
    older = compare(exams.older, *take(exams.older))
    reference = compare(exams.reference, *take(exams.reference))
    controls = [control(fact, asked, *take(asked)) for fact, asked in exams.controls]
    proven = sum(proof["proven"] for proof in proofs)
    return {
        "status": "succeeded",
        "facts": proofs,
        "controls": controls,
        "regressions": {"older": asdict(older), "reference": asdict(reference)},
        "verdict": asdict(judge(job.head.recipe, len(proofs), proven, older, reference)),
        "metrics": {"facts": len(proofs), "proven": proven},
    }


def seal(job: Job, trainee: Trainee, folder: Path, steps: list[Step]) -> str:
    """Write recipe and metrics beside the weights and seal the checkpoint; return its digest."""
    head, parent = job.head, trainee.bundle.manifest
    recipe = head.recipe.model_dump(mode="json")
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    lines = [json.dumps(asdict(step)) for step in steps]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return store.seal(
        folder,
        kind=trainee.kind,
        root=trainee.root,
        parent=head.parent,
        recipe=recipe,
        update_id=head.update_id,
        token=head.token,
        **parent.model_dump(
            include={
                "architecture",
                "model_class",
                "parameters",
                "mask_token",
                "mask_id",
                "context_length",
            }
        ),
    )


def measure(steps: list[Step]) -> dict[str, Any]:
    """Return what the run took and where it ended."""
    last = steps[-1]
    return {
        "steps": last.step,
        "epochs": last.epoch,
        "final_loss": last.loss,
        "final_recall": last.recall,
        "tokens": sum(step.tokens for step in steps),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
