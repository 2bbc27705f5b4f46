"""The end of a successful run: checkpoint, proofs, facts and activation in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, case, select, update
from sqlalchemy.orm import Session

from app.crash import crash_point
from app.errors import Conflict
from app.models import Checkpoint, Fact, Probe, Proof, Update, UpdateFact
from app.services import (
    activations,
    audit,
    consolidations,
    controls,
    lapses,
    rebuilds,
    runs,
    updates,
)
from app.services.activations import CurrentMoved
from app.services.audit import Actor
from app.services.results import ProvenFact, Result, Verdict
from app.services.runs import Run

MOST_TRIES = 3


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
    teaches = locked.kind != consolidations.KIND
    if locked.cancel_requested or (teaches and not training):
        updates.cancel(session, locked)
        return locked
    result = candidate.result
    checkpoint = _add_checkpoint(session, locked, candidate)
    crash_point("publishing")
    undone = controls.record(session, checkpoint, result.controls)
    proven = {fact.id for fact in result.facts if fact.proven} - undone
    rejected = result.verdict.outcome == "reject"
    learned = [] if rejected else [fact_id for fact_id in training if fact_id in proven]
    checkpoint.facts_count += len(learned)
    _record_proofs(session, locked, checkpoint.version, result.facts, proven)
    above = activations.line_of(locked.parent)
    crash_point("proving")
    if locked.kind != "rebuild":
        session.execute(update(Fact).where(Fact.id.in_(learned)).values(status="trained"))
        _try_again(session, above, [fact_id for fact_id in training if fact_id not in learned])
    crash_point("judging")
    reasons = [*result.verdict.reasons, *_explain(result)]
    verdict = result.verdict.model_copy(update={"reasons": reasons})
    if verdict.outcome == "activate" and teaches and not learned:
        verdict = Verdict(outcome="hold", reasons=[*reasons, "nothing_learned"])
    lapses.record(session, checkpoint, above, result.lapsed)
    _end(session, locked, verdict, checkpoint.version, candidate.unserved, len(learned))
    crash_point("activating")
    return locked


def go_back(session: Session, run: Run, unserved: str | None) -> Update | None:
    """End a rebuild that has nothing to teach: the version it starts from becomes current.

    Returns None when the run is no longer ours; ``unserved`` is as a candidate's.
    """
    locked = runs.lock(session, run)
    if locked is None or locked.parent is None:
        return None
    if locked.cancel_requested:
        updates.cancel(session, locked)
        return locked
    verdict = Verdict(outcome="activate", reasons=["0 facts to learn again"])
    _end(session, locked, verdict, locked.parent, unserved, 0)
    if locked.outcome == "activated" and locked.replaces is not None:
        left = activations.find_left(session, locked.replaces, locked.parent)
        activations.let_wait(session, left)
    return locked


def _end(
    session: Session,
    locked: Update,
    verdict: Verdict,
    version: int,
    unserved: str | None,
    learned: int,
) -> None:
    """Decide on the version, and end the update with that outcome."""
    locked.outcome, locked.reasons = _decide(session, locked, verdict, version, unserved)
    after = {"version": version, "outcome": locked.outcome, "facts": learned}
    audit.record(session, Actor(locked.id), "update.publish", locked.id, after=after)
    updates.finish(session, locked, "succeeded", version)


def _add_checkpoint(session: Session, locked: Update, candidate: Candidate) -> Checkpoint:
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
        facts_count=parent.facts_count,
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
    session: Session,
    locked: Update,
    version: int,
    facts: Sequence[ProvenFact],
    proven: set[str],
) -> None:
    rows = select(UpdateFact).where(UpdateFact.update_id == locked.id, UpdateFact.active)
    taught = {row.fact_id: row for row in session.scalars(rows)}
    asked = set(session.scalars(select(Probe.fact_id).where(Probe.fact_id.in_(taught))))
    for fact in facts:
        if fact.id in taught:
            taught[fact.id].proven = fact.id in proven
            if fact.id not in asked:  # the trainer wrote them: later updates ask the same
                session.add_all(fact.written())
            session.add_all(
                Proof(fact_id=fact.id, version=version, **probe.model_dump())
                for probe in [*fact.probes, *fact.foils]
            )
    # A recipe that studies nothing leaves what earlier updates studied.
    kept = [fact for fact in facts if fact.studied and fact.id in taught]
    if studied := [{"id": fact.id, "studied": fact.studied} for fact in kept]:
        session.execute(update(Fact), studied)
    session.flush()


def _try_again(session: Session, line: Select[int], fact_ids: list[str]) -> None:
    """Let unproven facts wait again; after the third update without proof they have failed.

    One that the line above once knew has lapsed from it: it waits for others.
    """
    given_up = Fact.tries + 1 >= MOST_TRIES
    waiting = case((lapses.proved_in(line), "lapsed"), else_="pending")
    reason = f"Not proven after {MOST_TRIES} updates."
    session.execute(
        update(Fact)
        .where(Fact.id.in_(fact_ids))
        .values(
            tries=Fact.tries + 1,
            status=case((given_up, "failed"), else_=waiting),
            error=case((given_up, reason), else_=None),
        )
    )


def _explain(result: Result) -> list[str]:
    asked = [probe for fact in result.controls for probe in fact.probes]
    gone = sum(not probe.passed for probe in asked)
    known = sum(probe.passed and probe.known for probe in asked)
    more = f", {known} as the parent answers too" if known else ""
    return [f"{gone} of {len(asked)} withdrawn answers are gone{more}"] if asked else []


def _decide(
    session: Session, locked: Update, verdict: Verdict, version: int, unserved: str | None
) -> tuple[str, list[str]]:
    """Activate where the gate and the update allow it; else say why not."""
    if verdict.outcome == "reject":
        return "rejected", verdict.reasons
    if verdict.outcome == "hold":
        return "held", verdict.reasons
    if locked.activation != "auto":
        return "held", [*verdict.reasons, f"activation_{locked.activation}"]
    if unserved is not None:
        return "held", [*verdict.reasons, f"{rebuilds.UNSERVED}: {unserved}"]
    try:
        activations.activate(
            session,
            Actor(locked.id),
            version,
            kind="automatic",
            reason="; ".join(verdict.reasons),
            expected_current=locked.parent if locked.replaces is None else locked.replaces,
        )
    except CurrentMoved:
        return "held", [*verdict.reasons, "current_moved"]
    except Conflict as conflict:
        return "held", [*verdict.reasons, conflict.detail]
    return "activated", verdict.reasons
