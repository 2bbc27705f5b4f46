"""Which checkpoints are kept, and that the others leave without a trace wherever one is killed."""

import hashlib
import threading
from collections.abc import Sequence

import pytest
from sqlalchemy import select

from app.db import utc_now
from app.errors import Conflict, NotFound
from app.lm import store
from app.lm.disposal import discard, size_of
from app.models import Audit, Checkpoint, Fact, Idempotency, Update, UpdateFact
from app.services import activations, checkpoints, disposal, keys
from app.services.audit import SYSTEM
from tasks.supervisor import Supervisor
from tests.lifecycle.conftest import Lifecycle, make_checkpoint
from tests.worker.conftest import TRAINER

OLD = {"created_at": utc_now().replace(year=2020)}


def add(here: Lifecycle, version: int, parent: int, *, active: bool = False, **more: object) -> str:
    """Add an old checkpoint with files; return its digest."""
    digest = make_checkpoint(here.settings.store)
    with here.database.transaction() as session:
        fields = {"kind": "full", **OLD, **more}
        session.add(Checkpoint(version=version, digest=digest, parent=parent, **fields))
        session.flush()
        if active:
            activations.activate(session, SYSTEM, version, kind="manual", reason="test")
    return digest


def mark(here: Lifecycle, keep_activated: int = 1, grace_s: float = 3600) -> Sequence[int]:
    with here.database.transaction() as session:
        return disposal.mark(session, keep_activated=keep_activated, grace_s=grace_s)


def alive(here: Lifecycle) -> list[int]:
    with here.database.reading() as session:
        rows = select(Checkpoint.version).where(Checkpoint.status.in_(("ready", "rejected")))
        return list(session.scalars(rows.order_by(Checkpoint.version)))


def test_of_a_long_line_few_are_kept_at_growing_distances() -> None:
    kept = {0}
    for version in range(1, 201):
        kept.add(version)
        chain = disposal._ladder(range(version + 1))
        assert chain <= kept, "one that was dropped is wanted again"
        kept = {0} | kept & chain
        assert len(kept) <= 20
        for wanted in range(1, version + 1):  # a rebuild that needs one at least so far back
            start = max(n for n in kept if n <= version - wanted)
            assert version - start <= 3 * wanted


def test_what_is_needed_is_kept(here: Lifecycle) -> None:
    for version in range(1, 8):
        add(here, version, version - 1, active=True)
    add(here, 8, 7, protected=True)
    add(here, 9, 7, status="rejected")
    add(here, 10, 7, created_at=utc_now())
    add(here, 11, 7)
    add(here, 12, 11, kind="adapter", root=11, protected=True)
    add(here, 13, 7)
    add(here, 14, 7)
    add(here, 15, 0)
    (fact_id,) = here.submit("Waits in a held version.")
    with here.database.transaction() as session:
        held = Update(status="succeeded", recipe={})
        session.add_all([held, Update(status="queued", parent=14, recipe={})])
        made = {"status": "succeeded", "outcome": "held", "replaces": 7, "recipe": {}}
        session.add(rebuild := Update(kind="rebuild", parent=0, **made))
        session.flush()
        session.get_one(Checkpoint, 15).update_id = rebuild.id
        session.get_one(Checkpoint, 13).update_id = held.id
        session.add(UpdateFact(update_id=held.id, fact_id=fact_id, active=False, proven=True))
        session.get_one(Fact, fact_id).status = "trained"
    assert mark(here, keep_activated=3) == [1, 2, 3, 9]
    assert alive(here) == [0, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15]
    with here.database.transaction() as session:
        acts = session.scalars(select(Audit.subject).where(Audit.act == "checkpoint.delete"))
        assert list(acts) == ["v1", "v2", "v3", "v9"]
        with pytest.raises(Conflict, match="deleting"):
            activations.activate(session, SYSTEM, 3, kind="manual", reason="test")
        with pytest.raises(NotFound, match="deleted"):
            checkpoints.resolve(session, 3)
    here.retract(fact_id)
    assert mark(here, keep_activated=3) == [13]
    assert mark(here, keep_activated=3, grace_s=0) == [10]


def test_a_clearing_that_was_killed_is_finished_by_the_next(here: Lifecycle) -> None:
    folder = here.settings.store
    digests = {version: add(here, version, 0) for version in (1, 2, 3)}
    current = add(here, 4, 0, active=True)
    orphan = make_checkpoint(folder)
    leaving = make_checkpoint(folder)
    assert mark(here) == [1, 2, 3]
    # Killed with one still there, one out of sight, one gone.
    (folder / "trash").mkdir()
    for digest in (digests[2], leaving):
        (folder / "objects" / digest).rename(folder / "trash" / digest)
    discard(folder, digests[3])
    clearing = here.dispatcher(gc_grace_s=0, keep_activated=1)
    for _ in range(2):
        clearing.clear_out()
        assert list((folder / "trash").iterdir()) == []
        assert [path.name for path in (folder / "objects").iterdir()] == [current]
        assert {here.checkpoint(n).status for n in (1, 2, 3)} == {"deleted"}
    assert orphan != current
    store.verify(folder, current)


def test_a_candidate_on_its_way_is_no_orphan(here: Lifecycle) -> None:
    candidate = make_checkpoint(here.settings.store)
    with here.database.transaction() as session:
        session.add(Update(status="running", recipe={}))
    here.dispatcher().clear_out()
    store.verify(here.settings.store, candidate)


def test_old_replies_and_events_are_swept(here: Lifecycle) -> None:
    ids = here.learn("One")
    with here.database.transaction() as session:
        done = session.scalars(select(Update)).one()
    here.submit("Two")
    live = here.deployment.open()
    add_replies(here)
    clearing = here.dispatcher(events_keep_days=1)
    clearing.clear_out()
    assert here.deployment.events(done.id) == ["queued", "started", "finished"]
    with here.database.transaction() as session:
        session.get_one(Update, done.id).finished_at = OLD["created_at"]
    clearing.clear_out()
    assert here.deployment.events(done.id) == []
    assert here.deployment.events(live) == ["queued"]
    assert here.standings(*ids) == ["learned"]
    with here.database.reading() as session:
        assert list(session.scalars(select(Idempotency.key))) == ["young"]


def add_replies(here: Lifecycle) -> None:
    with here.database.transaction() as session:
        owner = keys.create(session, SYSTEM, "test", ["admin"])[0].id
        for key, at in (("old", OLD["created_at"]), ("young", utc_now())):
            session.add(Idempotency(owner=owner, key=key, fingerprint="x", created_at=at))


def test_an_attempt_without_room_says_so_and_loses_nothing(here: Lifecycle) -> None:
    digest = make_checkpoint(here.settings.store)
    manifest = store.path_of(here.settings.store, digest) / "manifest.json"
    assert size_of(here.settings.store, digest) == len("{}") + len("weights")
    # A root of an exabyte, as its manifest says.
    raw = manifest.read_text().replace('"size": 7', '"size": 1152921504606846976')
    huge = hashlib.sha256(raw.encode()).hexdigest()
    (here.settings.store / "objects" / huge).mkdir()
    (here.settings.store / "objects" / huge / "manifest.json").write_text(raw)
    with here.database.transaction() as session:
        session.add(Checkpoint(version=1, digest=huge, parent=0, kind="full"))
        session.flush()
        activations.activate(session, SYSTEM, 1, kind="manual", reason="test")
    ids = here.submit("One")
    update_id = here.deployment.open()
    stop = threading.Event()
    stop.set()  # no pause
    Supervisor(here.database, here.settings, "here", stop, TRAINER).run_update(update_id)
    row = here.deployment.update(update_id)
    assert (row.status, row.attempt, here.standings(*ids)) == ("queued", 0, ["training"])
    assert row.error is not None
    assert row.error["type"] == "runner_failed"
    assert "MiB of free disk" in row.error["detail"]
    assert here.current() == 1
