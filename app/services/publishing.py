"""The end of a successful run: checkpoint, proofs, facts and activation in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel
from sqlalchemy import case, select, update
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.models import Checkpoint, Fact, Proof, Update, UpdateFact
from app.models.base import JsonObject
from app.services import activations, audit, runs, updates
from app.services.activations import CurrentMoved
from app.services.audit import Actor
from app.services.runs import Run

MOST_TRIES = 3


class ProvenProbe(BaseModel):
    """One question, answered by the parent and by the candidate."""

    question: str
    answers: list[str]
    direction: str
    origin: str
    before: str
    after: str
    exact: bool
    contains: bool
    rouge1: float
    passed: bool


class ProvenFact(BaseModel):
    """What the candidate knows of one fact."""

    id: str
    proven: bool
    probes: list[ProvenProbe]


class Verdict(BaseModel):
    """What the gate says, and why."""

    outcome: Literal["activate", "hold", "reject"]
    reasons: list[str]


class Result(BaseModel):
    """A successful trainer's result.json."""

    status: Literal["succeeded"]
    digest: str
    facts: list[ProvenFact]
    regressions: JsonObject
    verdict: Verdict
    metrics: JsonObject


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that lies verified in the store, and what its trainer found out."""

    digest: str
    kind: str
    root: str | None
    parameters: int
    result: Result
    unserved: str | None  # why the engine couldn't answer from it


def publish(session: Session, run: Run, candidate: Candidate) -> Update | None:
    """Give the candidate its version and end the update; None when the run is no longer ours.

    An update that was to be cancelled, or whose facts are all gone, ends as cancelled instead.
    """
    locked = runs.lock(session, run)
    if locked is None:
        return None
    training = runs.training_facts(session, locked.id)
    if locked.cancel_requested or not training:
        updates.cancel(session, locked)
        return locked
    rejected = candidate.result.verdict.outcome == "reject"
    proven = {fact.id for fact in candidate.result.facts if fact.proven}
    learned = [] if rejected else [fact_id for fact_id in training if fact_id in proven]
    checkpoint = _add_checkpoint(session, locked, candidate, len(learned))
    _record_proofs(session, locked, checkpoint.version, candidate.result.facts)
    session.execute(update(Fact).where(Fact.id.in_(learned)).values(status="trained"))
    _try_again(session, [fact_id for fact_id in training if fact_id not in learned])
    locked.outcome, locked.reasons = _decide(session, locked, checkpoint, candidate)
    actor = Actor(locked.id)
    after = {"version": checkpoint.version, "outcome": locked.outcome, "facts": len(learned)}
    audit.record(session, actor, "update.publish", locked.id, after=after)
    updates.finish(session, locked, "succeeded", checkpoint.version)
    return locked


def _add_checkpoint(
    session: Session, locked: Update, candidate: Candidate, learned: int
) -> Checkpoint:
    newest = select(Checkpoint.version).order_by(Checkpoint.version.desc()).limit(1)
    parent = session.get_one(Checkpoint, locked.parent)
    root = select(Checkpoint.version).where(Checkpoint.digest == candidate.root)
    checkpoint = Checkpoint(
        version=session.scalars(newest).one() + 1,
        digest=candidate.digest,
        kind=candidate.kind,
        root=session.scalars(root).one() if candidate.root else None,
        parent=parent.version,
        update_id=locked.id,
        status="rejected" if candidate.result.verdict.outcome == "reject" else "ready",
        facts_count=parent.facts_count + learned,
        metrics={
            **candidate.result.metrics,
            "parameters": candidate.parameters,
            "regressions": candidate.result.regressions,
        },
    )
    session.add(checkpoint)
    session.flush()
    return checkpoint


def _record_proofs(
    session: Session, locked: Update, version: int, facts: Sequence[ProvenFact]
) -> None:
    rows = select(UpdateFact).where(UpdateFact.update_id == locked.id, UpdateFact.active)
    taught = {row.fact_id: row for row in session.scalars(rows)}
    for row in taught.values():
        row.proven = False
    for fact in facts:
        if fact.id in taught:
            taught[fact.id].proven = fact.proven
            session.add_all(
                Proof(fact_id=fact.id, version=version, **probe.model_dump())
                for probe in fact.probes
            )
    session.flush()


def _try_again(session: Session, fact_ids: list[str]) -> None:
    """Let unproven facts wait again; after the third update without proof they have failed."""
    given_up = Fact.tries + 1 >= MOST_TRIES
    reason = f"Not proven after {MOST_TRIES} updates."
    session.execute(
        update(Fact)
        .where(Fact.id.in_(fact_ids))
        .values(
            tries=Fact.tries + 1,
            status=case((given_up, "failed"), else_="pending"),
            error=case((given_up, reason), else_=None),
        )
    )


def _decide(
    session: Session, locked: Update, checkpoint: Checkpoint, candidate: Candidate
) -> tuple[str, list[str]]:
    """Activate where the gate and the update allow it; else say why not."""
    verdict = candidate.result.verdict
    if verdict.outcome == "reject":
        return "rejected", verdict.reasons
    if verdict.outcome == "hold":
        return "held", verdict.reasons
    if locked.activation != "auto":
        return "held", [*verdict.reasons, f"activation_{locked.activation}"]
    if candidate.unserved is not None:
        return "held", [*verdict.reasons, f"engine_unavailable: {candidate.unserved}"]
    try:
        activations.activate(
            session,
            Actor(locked.id),
            checkpoint.version,
            kind="automatic",
            reason="; ".join(verdict.reasons),
            expected_current=locked.parent,
        )
    except CurrentMoved:
        return "held", [*verdict.reasons, "current_moved"]
    except Conflict as conflict:
        return "held", [*verdict.reasons, conflict.detail]
    return "activated", verdict.reasons
