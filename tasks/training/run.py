"""One run, from the parent's answers to the sealed checkpoint and the gate's verdict."""

import json
import resource
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from app.errors import DomainError
from app.lm import store
from app.lm.chat import encode_chat, encode_text
from app.lm.loading import Bundle
from app.prompts import ask
from app.recipe import fits_architecture
from tasks.training import drift
from tasks.training.asking import OnAsked, answer_prompts, quiet
from tasks.training.data import Lessons, asked, replayed, replays, teachable
from tasks.training.errors import BadJob, BadParent, OnlyAsked, OutOfMemory
from tasks.training.exams import assess, fits, set_exams
from tasks.training.job import Events, Fact, Job
from tasks.training.loop import train
from tasks.training.method import Trainee, load_base, load_parent, prepare
from tasks.training.progress import Clock, Progress, Step
from tasks.training.proof import answer_all
from tasks.training.questions import complete, drop_ambiguous
from tasks.training.spread import Spread
from tasks.training.state import State, name_run
from tasks.training.studying import study

# A replayed answer is the base model's own. One that is cut isn't taught: it ends nowhere.
REPLAYED_ANSWER_TOKENS = 48


def run(job: Job, events: Events | None, spread: Spread) -> dict[str, Any] | None:
    """Do the job and return its result; leaves the sealed checkpoint in ``checkpoint/``.

    A process that isn't the first of a spread gives no result and tells no ``events``.
    Raises a ``TrainingError`` where the run can't give one.
    """
    if job.head.recipe.device == "cuda" and not torch.cuda.is_available():
        raise BadJob("The recipe asks for a GPU, and torch finds none here.")
    try:
        if events is not None:
            return _run(job, events, spread)
        _follow(job, spread)
        return None
    except DomainError as error:
        raise BadParent(error.detail) from error
    except (MemoryError, RuntimeError) as error:
        # A CPU's is a plain error, told apart by its words alone.
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if known or "can't allocate memory" in str(error):
            raise OutOfMemory(f"Out of memory: {error}") from error
        raise


def _follow(job: Job, spread: Spread) -> None:
    recipe, steps = job.head.recipe, list[Step]()
    run_name = name_run(job)
    bundle = load_parent(job.head.store, job.head.parent, recipe)
    base = load_base(job.head, bundle)
    lessons = spread.tell(None)
    trainee = prepare(bundle, recipe, job.head.store)
    state = State(job.head.state or job.folder, run_name, recipe.save_every_s, steps, spread)
    train(
        trainee.bundle,
        lessons,
        recipe,
        on_step=steps.append,
        state=state,
        spread=spread,
        base=base,
    )
    spread.leave()


def _run(job: Job, events: Events, spread: Spread) -> dict[str, Any]:
    recipe, folder = job.head.recipe, job.folder / "checkpoint"
    clock = Clock(events)
    clock.start("preparing")
    run_name, merges = name_run(job), job.head.kind == "consolidate"
    bundle = load_parent(job.head.store, job.head.parent, recipe, trains=not merges)
    if not fits_architecture(recipe.objective, bundle.manifest.architecture):
        kind = bundle.manifest.architecture
        raise BadParent(f"`{recipe.objective}` can't train a {kind} model.")
    facts = complete(bundle, job.facts, clock.tell_asked)
    older = drop_ambiguous(job.older, facts)
    job = replace(job, facts=drop_ambiguous(facts, job.older), older=older)
    exams = set_exams(job, bundle)
    before = answer_all(bundle, exams.all, clock.tell_asked)
    yardstick = drift.record(bundle, drift.texts_of(job.reference))
    base = None if merges else load_base(job.head, bundle)
    at_base = answer_all(base, exams.kept["reference"], clock.tell_asked) if base else []
    if merges:  # as an adapter's model is before all of it is trained
        trainee, steps = prepare(bundle, recipe, job.head.store), list[Step]()
    else:
        studied = study(bundle, job.facts, asked(job), recipe, clock.tell_asked)
        job = replace(job, facts=studied)
        trainee, steps = _teach(job, bundle, base, run_name, clock, spread)
    clock.start("proving")
    trainee.save(folder)
    after = answer_all(trainee.bundle, exams.all, clock.tell_asked)
    kl = None if yardstick is None else drift.measure(trainee.bundle, yardstick)
    result = assess(job, exams, before, after, kl, at_base)
    for proof, fact in zip(result["facts"], job.facts, strict=True):
        proof["studied"] = fact.studied
    result["digest"] = seal(job, trainee, folder, steps)
    result["metrics"] |= measure(steps) | clock.seconds()
    return result


def _teach(
    job: Job, bundle: Bundle, base: Bundle | None, run_name: str, clock: Clock, spread: Spread
) -> tuple[Trainee, list[Step]]:
    recipe = job.head.recipe
    lessons = spread.tell(plan_lessons(job, base or bundle, clock.tell_asked))
    trainee = prepare(bundle, recipe, job.head.store)
    clock.start("training")
    progress = Progress(clock.events)
    saved = job.head.state or job.folder
    state = State(saved, run_name, recipe.save_every_s, progress.steps, spread)
    train(
        trainee.bundle,
        lessons,
        recipe,
        on_step=progress,
        state=state,
        spread=spread,
        base=base,
    )
    spread.leave()
    return trainee, progress.steps


def plan_lessons(job: Job, base: Bundle, on_asked: OnAsked = quiet) -> Lessons:
    """Choose what is taught; the base model answers those questions that may be replayed."""
    facts = teachable(job)
    if not facts:
        ids = [fact.id for fact in job.facts]
        raise OnlyAsked("Every prompt of these examples is a question that is only asked.", ids)
    if job.head.recipe.replay_share == 0:
        return Lessons(facts)
    older, statements, questions = replayed(job)
    kinds = sum(map(bool, (older, statements, questions)))
    drawn = min(len(questions), replays(len(facts), job.head.recipe) // max(1, kinds) + 1)
    questions = Random(job.head.recipe.seed).sample(questions, drawn)
    room = base.manifest.context_length - REPLAYED_ANSWER_TOKENS
    prompts = [(text, encode_chat(base.tokenizer, ask(text))) for text in questions]
    prompts = [(text, prompt) for text, prompt in prompts if len(prompt) <= room]
    lengths = [REPLAYED_ANSWER_TOKENS] * len(prompts)
    answers = answer_prompts(base, [prompt for _, prompt in prompts], lengths, on_asked)
    return Lessons(
        facts,
        [fact for fact in older if fits(base, fact)],
        [text for text in statements if fits(base, Fact(id="", text=text))],
        [
            (text, answer)
            for (text, _), answer in zip(prompts, answers, strict=True)
            if 0 < len(encode_text(base.tokenizer, answer)) < REPLAYED_ANSWER_TOKENS
        ],
    )


def seal(job: Job, trainee: Trainee, folder: Path, steps: list[Step]) -> str:
    """Write recipe and metrics beside the weights and seal the checkpoint; return its digest."""
    head, parent = job.head, trainee.bundle.manifest
    recipe = head.recipe.model_dump(mode="json") | trainee.shape
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    lines = [json.dumps(asdict(step)) + "\n" for step in steps]
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
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
    memory = {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    if not steps:
        return memory
    last = steps[-1]
    return {
        "steps": last.step,
        "epochs": last.epoch,
        "final_loss": last.loss,
        "final_recall": last.recall,
        "tokens": sum(step.tokens for step in steps),
        "older_tokens": sum(step.older_tokens for step in steps),
        "base_tokens": sum(step.base_tokens for step in steps),
        **memory,
    }
