"""Consolidations: an adapter is merged into its root, and the result is a root of its own.

Each update trains the adapter on; its rank, which bounds what it can hold, stays as it was. Merged,
all that was learned is kept, and the next update begins with an empty one. Nothing is taught, so no
facts belong to it: what was learned before is asked again, and the gate judges by that.
"""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.models import Checkpoint, Update
from app.recipe import Recipe
from app.services import activations, audit, recipes, updates
from app.services.audit import SYSTEM, Actor

KIND = "consolidate"
# What of a recipe would train, split or refuse a model that is only merged.
MERGING = {"method": "full", "trained": "all", "devices": 1, "checkpointing": False}


def open_now(
    session: Session, actor: Actor, recipe: Recipe | None = None, activation: str = "auto"
) -> Update:
    """Open a consolidation of what is current; `Conflict` where that is no adapter."""
    now = activations.current(session)
    # Locked, so that of two who open one at the same time the second sees the first one's.
    found = session.get_one(Checkpoint, now.version, with_for_update=True) if now else None
    if found is None or found.kind != "adapter":
        raise Conflict("The current version is no adapter: there is nothing to merge.")
    live = (Update.kind == KIND, Update.status.in_(updates.LIVE_UPDATE))
    if session.scalar(select(Update.id).where(*live).limit(1)) is not None:
        raise Conflict("A consolidation is under way already.")
    chosen = recipes.choose(session, recipe).model_copy(update=MERGING)
    opened = Update(
        kind=KIND,
        parent=found.version,
        replaces=found.version,
        recipe=chosen.model_dump(),
        activation=activation,
        created_by=actor.key_id,
    )
    updates.enlist(session, opened, ())
    audit.record(session, actor, "update.open", opened.id, after={"merges": found.version})
    return opened


def open_due(session: Session, most: int) -> Update | None:
    """Open a consolidation once `most` updates have trained the current adapter.

    One of this version that ended is not tried again, however it ended: a person decides.
    """
    now = activations.current(session)
    current = session.get_one(Checkpoint, now.version) if now else None
    if current is None or current.kind != "adapter":
        return None
    line = activations.line_of(current.version)
    trained = select(func.count()).where(
        Checkpoint.version.in_(line), Checkpoint.root == current.root
    )
    tried = select(Update.id).where(Update.kind == KIND, Update.parent == current.version).limit(1)
    if session.scalars(trained).one() < most or session.scalar(tried) is not None:
        return None
    try:
        return open_now(session, SYSTEM)
    except Conflict:  # somebody else was first
        return None


def drop_stale(session: Session) -> None:
    """Cancel queued consolidations of a version that isn't current any more."""
    now = activations.current(session)
    queued = select(Update.id).where(Update.kind == KIND, Update.status == "queued")
    stale = queued.where(Update.replaces != now.version) if now else queued
    for update_id in session.scalars(stale).all():
        updates.cancel_stale(session, update_id)
