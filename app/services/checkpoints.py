"""Checkpoints: immutable, numbered; 0 is the base model."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, selectinload

from app.db import Reader
from app.errors import Conflict, NotFound, Unavailable
from app.models import Activation, Checkpoint, Fact
from app.models.base import JsonObject
from app.recipe import Architecture
from app.services import activations, audit, lapses
from app.services.audit import SYSTEM, Actor
from app.services.pages import Page, fetch_page


class Resolved(NamedTuple):
    """What answers: of a checkpoint no more than that takes, for every question waits for it."""

    version: int
    digest: str
    parent: int | None
    created_at: datetime
    status: str


_RESOLVED = select(
    Checkpoint.version,
    Checkpoint.digest,
    Checkpoint.parent,
    Checkpoint.created_at,
    Checkpoint.status,
)
# Kept: every question runs it, and building it takes longer.
_CURRENT = _RESOLVED.where(
    Checkpoint.version
    == select(Activation.version).order_by(Activation.id.desc()).limit(1).scalar_subquery()
)


def register_base(
    session: Session, digest: str, parameters: int, architecture: Architecture = "causal"
) -> Checkpoint:
    """Make the base model version 0 and current; a second call finds it again.

    Raises `Conflict` when version 0 is another model.
    """
    base = session.get(Checkpoint, 0)
    if base is None:
        base = _insert_base(session, digest, parameters, architecture)
    if base.digest != digest:
        raise Conflict(
            f"This database's base model is {base.digest[:12]}, not {digest[:12]}. "
            "Use a fresh data directory for another base model."
        )
    return base


def _insert_base(
    session: Session, digest: str, parameters: int, architecture: Architecture
) -> Checkpoint:
    metrics = {"parameters": parameters, "architecture": architecture}
    base = Checkpoint(version=0, digest=digest, kind="full", metrics=metrics)
    try:
        with session.begin_nested():
            session.add(base)
    except IntegrityError:  # another process was first
        return session.get_one(Checkpoint, 0)
    first = Activation(previous_id=0, version=0, kind="initial", actor=SYSTEM.name)
    activations.append(session, first)
    audit.record(session, SYSTEM, "checkpoint.register", "v0", after={"digest": digest})
    return base


def get(session: Session, version: int) -> Checkpoint:
    """Return a checkpoint in whatever status, or raise `NotFound`."""
    checkpoint = session.get(Checkpoint, version)
    if checkpoint is None:
        raise _unknown(version)
    return checkpoint


def list_checkpoints(session: Session, page: Page) -> tuple[Sequence[Checkpoint], bool]:
    """Return one page of checkpoints, and whether there are more."""
    return fetch_page(session, Checkpoint, page)


def list_ready(session: Session) -> Sequence[Checkpoint]:
    """Return every checkpoint that can answer, newest first."""
    query = select(Checkpoint).where(Checkpoint.status == "ready")
    return session.scalars(query.order_by(Checkpoint.version.desc())).all()


def resolve(reader: Reader, version: int | None) -> Resolved:
    """Return the checkpoint that answers: the pinned one, or the current one when None.

    Raises `NotFound` (unknown, deleted), `Conflict` (rejected), `Unavailable` (no base model yet).
    """
    if version is not None:
        return _pinned(reader, version)
    row = reader.execute(_CURRENT).first()
    if row is None:
        raise Unavailable("No base model is registered yet.")
    return Resolved(*row)


def _pinned(reader: Reader, version: int) -> Resolved:
    row = reader.execute(_RESOLVED.where(Checkpoint.version == version)).first()
    if row is None:
        raise _unknown(version)
    checkpoint = Resolved(*row)
    if checkpoint.status == "rejected":
        raise Conflict(f"Version {version} was rejected by its gate and doesn't answer.")
    if checkpoint.status != "ready":
        raise NotFound(f"Version {version} is deleted.")
    return checkpoint


def _unknown(version: int) -> NotFound:
    return NotFound(f"There is no version {version}.")


def list_facts(session: Session, version: int, page: Page) -> tuple[Sequence[Fact], bool]:
    """Return one page of the facts that a version has learned, with their probes.

    They were proven in its lineage, and it was never found to have lost them.
    """
    get(session, version)
    line = activations.line_of(version)
    return fetch_page(session, Fact, page, [lapses.learned_in(line)], [selectinload(Fact.probes)])


def change(session: Session, actor: Actor, version: int, changes: JsonObject) -> Checkpoint:
    """Set a checkpoint's `label` or `protected` to what `changes` says; audited.

    `Conflict` for one that can't be kept any more.
    """
    checkpoint = session.get(Checkpoint, version, with_for_update=True)
    if checkpoint is None:
        raise _unknown(version)
    if changes.get("protected") and checkpoint.status in ("deleting", "deleted"):
        raise Conflict(f"Version {version} is {checkpoint.status}.", pointer="/protected")
    before = {name: getattr(checkpoint, name) for name in changes}
    if changes != before:
        for name, value in changes.items():
            setattr(checkpoint, name, value)
        act, subject = "checkpoint.change", f"v{version}"
        audit.record(session, actor, act, subject, before=before, after=changes)
    return checkpoint
