"""The promises, checked over the rows of a database and the files of a store."""

from collections import Counter
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import DomainError
from app.lm import store
from app.models import Activation, Audit, Checkpoint, Fact, Proof, Update, UpdateFact, is_lost

FACT = {"quarantined", "rejected", "pending", "training", "trained", "failed"} | {
    "lapsed",
    "superseded",
    "retracted",
}
UPDATE = {"queued", "running", "succeeded", "failed", "cancelled"}
CHECKPOINT = {"ready", "rejected", "deleting", "deleted"}
SERVABLE_ONCE = CHECKPOINT - {"rejected"}


def find_problems(session: Session) -> list[str]:
    """Return every broken promise of the rows, in words."""
    facts = {row.id: row.status for row in session.execute(select(Fact.id, Fact.status))}
    updates = {row.id: row for row in session.scalars(select(Update))}
    checkpoints = {row.version: row for row in session.scalars(select(Checkpoint))}
    columns = (UpdateFact.update_id, UpdateFact.fact_id, UpdateFact.active, UpdateFact.proven)
    parts = [tuple(row) for row in session.execute(select(*columns))]
    return [
        *(f"{fact_id} is {status}" for fact_id, status in facts.items() if status not in FACT),
        *_check_updates(updates, facts, parts),
        *_check_checkpoints(checkpoints, updates),
        *_check_lineages(checkpoints, facts, parts, find_lost(session)),
        *_check_ledger(session, checkpoints),
    ]


def find_lost(session: Session) -> dict[int, set[str]]:
    """Return which facts each version was found not to answer."""
    failed = select(Proof.version, Proof.fact_id).where(is_lost(Proof))
    lost: dict[int, set[str]] = {}
    for version, fact_id in session.execute(failed):
        lost.setdefault(version, set()).add(fact_id)
    return lost


def _check_updates(updates, facts, parts):  # noqa: C901 - one rule after the other
    live = {id for id, row in updates.items() if row.status in ("queued", "running")}
    running = [id for id, row in updates.items() if row.status == "running"]
    yield from (f"{id} is {row.status}" for id, row in updates.items() if row.status not in UPDATE)
    if len(running) > 1:
        yield f"running at the same time: {running}"
    for id, row in updates.items():
        if (row.status == "running") != (row.lease_until is not None):
            yield f"{id} is {row.status} with lease {row.lease_until}"
        if (row.outcome is not None) != (row.status == "succeeded"):
            yield f"{id} is {row.status} with outcome {row.outcome}"
    held = Counter(fact_id for _, fact_id, active, _ in parts if active)
    yield from (f"{fact_id} is in {n} live updates" for fact_id, n in held.items() if n > 1)
    taught = set()
    for update_id, fact_id, active, _ in parts:
        if active and update_id not in live:
            yield f"{fact_id} is held by {update_id}, which is {updates[update_id].status}"
        if active and updates[update_id].kind != "rebuild":
            taught.add(fact_id)
            if facts[fact_id] not in ("training", "superseded", "retracted"):
                yield f"{fact_id} is {facts[fact_id]} in the live {update_id}"
    for fact_id, status in facts.items():
        if status == "training" and fact_id not in taught:
            yield f"{fact_id} is training in no update"


def _check_checkpoints(checkpoints, updates):
    made = {row.update_id: version for version, row in checkpoints.items() if version}
    if sorted(checkpoints) != list(range(len(checkpoints))):
        yield f"versions with gaps: {sorted(checkpoints)}"
    for version, row in checkpoints.items():
        if row.status not in CHECKPOINT:
            yield f"version {version} is {row.status}"
        if version and (row.parent is None or row.parent >= version):
            yield f"version {version} is trained from {row.parent}"
        if version and updates[row.update_id].status != "succeeded":
            yield f"version {version} was made by an update that is {updates[row.update_id].status}"
        rejected = version and updates[row.update_id].outcome == "rejected"
        if rejected and row.status in ("ready", "deleting"):
            yield f"version {version} was rejected and is {row.status}"
    for id, row in updates.items():
        if row.status == "succeeded" and row.kind == "learn" and id not in made:
            yield f"{id} succeeded without a checkpoint"


def _check_lineages(checkpoints, facts, parts, lost):
    proven: dict[str, set[str]] = {}
    for update_id, fact_id, _, is_proven in parts:
        if is_proven:
            proven.setdefault(update_id, set()).add(fact_id)
    known: dict[int, set[str]] = {}
    published = set()
    for version in sorted(checkpoints):
        row = checkpoints[version]
        before = known.get(row.parent, set()) if row.parent is not None else set()
        mine = proven.get(row.update_id, set())
        if twice := before & mine:
            yield f"proven twice in the lineage of version {version}: {sorted(twice)}"
        known[version] = (before - lost.get(version, set())) | mine
        if row.status in SERVABLE_ONCE:
            published |= mine
    for fact_id, status in facts.items():
        if status == "trained" and fact_id not in published:
            yield f"{fact_id} is trained, but no version proved it"


def _check_ledger(session, checkpoints):
    rows = session.scalars(select(Activation).order_by(Activation.id)).all()
    if not rows:
        if checkpoints:
            yield "nothing is current"
        return
    for before, row in zip([None, *rows], rows, strict=False):
        if row.previous_id != (before.id if before else 0):
            yield f"activation {row.id} follows {row.previous_id}"
        if before is not None and before.version == row.version:
            yield f"activation {row.id} changes nothing"
    if checkpoints[rows[-1].version].status != "ready":
        yield f"current is {rows[-1].version}, which is {checkpoints[rows[-1].version].status}"
    audited = ("checkpoint.activate", "checkpoint.rollback", "checkpoint.register")
    acts = session.scalars(select(Audit.id).where(Audit.act.in_(audited))).all()
    if len(acts) != len(rows):
        yield f"{len(rows)} activations, {len(acts)} in the audit trail"


def find_bad_files(session: Session, folder: Path) -> list[str]:
    """Return what is wrong with the store: a partial checkpoint, or a version without its own."""
    problems = []
    for found in (folder / "objects").glob("*"):
        try:
            store.verify(folder, found.name)
        except DomainError as error:
            problems.append(error.detail)
    named = select(Checkpoint.digest).where(
        Checkpoint.version > 0, Checkpoint.status.in_(("ready", "rejected"))
    )
    missing = [
        f"no files of {digest}"
        for digest in session.scalars(named)
        if not (folder / "objects" / digest).is_dir()
    ]
    return problems + missing
