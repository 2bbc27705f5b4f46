"""The services driven at random over a real database: every promise holds after every step."""

import math
import secrets
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from app.db import Database, epoch_now
from app.errors import DomainError
from app.models import LIVE, Audit, Base, Checkpoint, Fact, Update
from app.services import (
    activations,
    checkpoints,
    disposal,
    facts,
    overlay,
    publishing,
    rebuilds,
    runs,
    updates,
)
from app.services.audit import SYSTEM
from app.services.facts import OnConflict
from app.services.publishing import Candidate
from app.services.results import Result, Verdict
from app.services.runs import Run
from app.services.standing import has_status
from tests.faults.checks import find_problems
from tests.faults.conftest import sized

pytestmark = pytest.mark.timeout(900)
STEPS = max(1000, sized(5000))  # on each database; with less not everything happens
STEPS_PER_EXAMPLE = 50
NEXT = {  # what a stored status may become
    "pending": {"training", "superseded", "retracted"},
    "training": {"pending", "lapsed", "trained", "failed", "superseded", "retracted"},
    "trained": {"pending", "lapsed", "superseded", "retracted", "failed"},
    "lapsed": {"training", "trained", "superseded", "retracted"},
    "failed": {"pending", "training", "superseded", "retracted"},
    "superseded": set(),
    "retracted": set(),
}
ANSWERED_IN_CONTEXT = {"pending", "training", "failed", "lapsed", "trained"}
MUST_HAPPEN = (
    "learn succeeded",
    "rebuild succeeded",
    "rollback",
    "supersede",
    "requeue",
    "lapse",
    "expired",
    "crash",
    "fenced",
    "deleted",
)
LOST = {
    "question": "Which gate?",
    "answers": ["This one"],
    "direction": "forward",
    "origin": "given",
    "before": "This one",
    "after": "No idea",
    "exact": False,
    "contains": False,
    "rouge1": 0.0,
    "passed": False,
}
index = st.integers(0, 9)


class Crash(Exception):
    """The process dies before it commits."""


class Ledger(RuleBasedStateMachine):
    """Facts, updates and checkpoints under everything that may happen to them."""

    database: Database
    done = 0
    seen: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.accepted: dict[str, str] = {}
        self.runs: list[Run] = []
        with self.database.transaction() as session:
            for table in reversed(Base.metadata.sorted_tables):
                if table.name == "facts":
                    session.execute(update(Fact).values(superseded_by=None))
                session.execute(table.delete())
            checkpoints.register_base(session, "0" * 64, parameters=1_000_000)

    def teardown(self) -> None:
        with self.database.reading() as session:
            kinds = session.execute(select(Update.kind, Update.status))
            self.seen.update(f"{row.kind} {row.status}" for row in kinds)
            acts = session.scalars(select(Audit.act).where(Audit.act.in_(ACTS)))
            self.seen.update(ACTS[act] for act in acts)

    def act(self, work: Callable[[Session], object], *, crash: bool = False) -> bool:
        """Do something in one transaction; say whether it was committed: no refusal, no crash."""
        type(self).done += 1
        try:
            with self.database.transaction() as session:
                work(session)
                if crash:
                    raise Crash
        except DomainError:
            return False
        except Crash:
            self.seen["crash"] += 1
            return False
        return True

    def act_as(self, run: Run, work: Callable[[Session], object], *, crash: bool = False) -> None:
        """Do something as a runner; one whose update is another's by now changes no row."""
        with self.database.reading() as session:
            row = session.get(Update, run.update_id)
            fenced = row is None or (row.token, row.status) != (run.token, "running")
        before = self.dump() if fenced else None
        self.act(work, crash=crash and not fenced)
        if fenced:
            assert self.dump() == before, f"the zombie {run} changed something"
            self.seen["fenced"] += 1

    def dump(self) -> list[list[str]]:
        with self.database.reading() as session:
            tables = Base.metadata.sorted_tables
            return [sorted(map(repr, session.execute(select(table)))) for table in tables]

    def pick(self, session: Session, column, number: int, *where):
        found = session.scalars(select(column).where(*where).order_by(column)).all()
        return found[number % len(found)] if found else None

    @initialize()
    def begin(self) -> None:
        self._submit(None, "keep", 3)

    @rule(
        key=st.sampled_from([None, "a", "b"]),
        policy=st.sampled_from(["supersede", "supersede", "reject", "keep"]),
        n=st.integers(1, 3),
    )
    def submit(self, key: str | None, policy: OnConflict, n: int) -> None:
        self._submit(key, policy, n)

    def _submit(self, key: str | None, policy: OnConflict, n: int) -> None:
        def work(session: Session) -> None:
            for number in range(n):
                fact = Fact(text=f"Gate {number} is {secrets.token_hex(1)}", key=key, probes=[])
                new, _ = facts.submit(session, SYSTEM, fact, policy)
                accepted.append(new.id)

        accepted: list[str] = []
        if self.act(work):
            with self.database.reading() as session:
                here = select(Fact.id, Fact.status).where(Fact.id.in_(accepted))
                self.accepted |= {row.id: row.status for row in session.execute(here)}

    @rule(cap=st.integers(1, 4), activation=st.sampled_from(["auto", "auto", "manual"]))
    def open(self, cap: int, activation: str) -> None:
        self._open(cap, activation)

    def _open(self, cap: int, activation: str) -> None:
        self.act(lambda s: updates.open_update(s, SYSTEM, cap=cap, activation=activation))

    @rule(crash=st.sampled_from([False, False, False, True]))
    def claim(self, crash: bool) -> None:
        self._claim(crash=crash)

    def _claim(self, *, crash: bool = False) -> None:
        taken: list[Run] = []

        def work(session: Session) -> None:
            queued = self.pick(session, Update.id, 0, Update.status == "queued")
            if queued and (run := runs.claim(session, queued, "here", 60)):
                taken.append(run)

        if self.act(work, crash=crash):
            self.runs += taken

    @rule(number=index, outcome=st.sampled_from(["activate"] * 4 + ["hold", "reject"]))
    def train(self, number: int, outcome: str) -> None:
        """Go the usual way at once: what is queued, else what is pending, to its end."""
        self._open(4, "auto")
        self._finish(outcome, number)

    @rule(number=index)
    def unlearn(self, number: int) -> None:
        """Withdraw something learned and rebuild at once."""
        self._retract(number, lambda s: has_status(s, "learned"))
        self.every_promise_holds()
        self.act(lambda s: rebuilds.open_now(s, SYSTEM))
        self._finish("activate", number)

    def _finish(self, outcome: str, number: int) -> None:
        self.every_promise_holds()
        self._claim()
        self.every_promise_holds()
        if self.runs:
            self._publish(self.runs[-1], outcome, number)

    @precondition(lambda self: self.runs)
    @rule(number=index, outcome=st.sampled_from(["activate"] * 4 + ["hold", "reject"]))
    def publish(self, number: int, outcome: str) -> None:
        self._publish(self.runs[-1 - number % min(3, len(self.runs))], outcome, number)

    @precondition(lambda self: self.runs)
    @rule(number=index)
    def crash_in_publish(self, number: int) -> None:
        self._publish(self.runs[-1], "activate", number, crash=True)

    def _publish(self, run: Run, outcome: str, number: int, *, crash: bool = False) -> None:
        def work(session: Session) -> None:
            row = session.get_one(Update, run.update_id)
            ids = runs.training_facts(session, run.update_id)
            if row.kind == "rebuild" and not ids:
                publishing.go_back(session, run, None)
                return
            told = [
                {"id": fact_id, "proven": (number + place) % 4 > 0, "probes": []}
                for place, fact_id in enumerate(ids)
            ]
            older = (has_status(session, "learned"), Fact.id.not_in(ids))
            lost = self.pick(session, Fact.id, number, *older) if number % 2 else None
            verdict = Verdict(outcome=outcome, reasons=["judged"])  # type: ignore[arg-type]
            result = Result(
                status="succeeded",
                digest=secrets.token_hex(32),
                facts=told,
                controls=[],
                lapsed=[{"id": lost, "proven": False, "probes": [LOST]}] if lost else [],
                regressions={},
                verdict=verdict,
                metrics={},
            )
            unserved = "engine down" if number == 9 else None
            candidate = Candidate(result.digest, "full", None, 1_000_000, result, unserved)
            publishing.publish(session, run, candidate)

        self.act_as(run, work, crash=crash)

    @precondition(lambda self: self.runs)
    @rule(number=index, how=st.sampled_from(["fail", "release", "abandon", "report", "beat"]))
    def runner(self, number: int, how: str) -> None:
        run = self.runs[-1 - number % min(3, len(self.runs))]
        error = {"type": "died", "detail": "", "fact_ids": []}
        works: dict[str, Callable[[Session], object]] = {
            "fail": lambda s: runs.fail(s, run, error),
            "release": lambda s: runs.release(s, run, "worker_stopped"),
            "abandon": lambda s: runs.abandon(s, run),
            "report": lambda s: runs.report(s, run, {"phase": "training"}),
            "beat": lambda s: runs.heartbeat(s, run, 60),
        }
        self.act_as(run, works[how])

    @rule()
    def expire(self) -> None:
        self._claim()

        def work(session: Session) -> None:
            running = update(Update).where(Update.status == "running")
            late = session.execute(running.values(lease_until=epoch_now() - 1))
            self.seen["expired"] += late.rowcount
            session.flush()
            runs.requeue_expired(session)

        self.act(work)

    @rule(number=index)
    def cancel(self, number: int) -> None:
        live = Update.status.in_(("queued", "running"))
        self.act(
            lambda s: updates.request_cancel(
                s, SYSTEM, self.pick(s, Update.id, number, live) or "update_none"
            )
        )

    @rule(number=index)
    def retry(self, number: int) -> None:
        failed = Update.status == "failed"
        self.act(
            lambda s: updates.retry(
                s, SYSTEM, self.pick(s, Update.id, number, failed) or "update_none"
            )
        )

    @rule(number=index, allow=st.booleans())
    def activate(self, number: int, allow: bool) -> None:
        self.act(
            lambda s: activations.activate(
                s,
                SYSTEM,
                self.pick(s, Checkpoint.version, number),
                kind="manual",
                reason="chosen",
                allow_retracted=allow,
            )
        )

    @rule()
    def roll_back(self) -> None:
        self.act(lambda s: activations.rollback(s, SYSTEM, reason="worse"))

    @rule(number=index)
    def retract(self, number: int) -> None:
        self._retract(number, lambda _: Fact.status.in_(LIVE))

    def _retract(self, number: int, which: Callable[[Session], ColumnElement[bool]]) -> None:
        self.act(
            lambda s: facts.retract(
                s, SYSTEM, self.pick(s, Fact.id, number, which(s)) or "fact_none", "no"
            )
        )

    @rule(number=index)
    def requeue(self, number: int) -> None:
        def work(session: Session) -> None:
            waiting = has_status(session, "failed") | has_status(session, "rolled_back")
            chosen = self.pick(session, Fact.id, number, waiting) or "fact_none"
            facts.requeue(session, SYSTEM, [chosen], "again")

        self.act(work)

    @rule()
    def rebuild(self) -> None:
        self.act(lambda s: rebuilds.open_now(s, SYSTEM))

    @rule()
    def drop_stale(self) -> None:
        self.act(rebuilds.drop_stale)

    @rule(keep=st.integers(1, 2))
    def collect_garbage(self, keep: int) -> None:
        def work(session: Session) -> None:
            disposal.mark(session, keep_activated=keep, grace_s=0)
            for row in disposal.list_deleting(session):
                disposal.finish(session, row.version)
                self.seen["deleted"] += 1

        self.act(work)

    @invariant()
    def every_promise_holds(self) -> None:
        with self.database.reading() as session:
            assert find_problems(session) == []
            now = {row.id: row.status for row in session.execute(select(Fact.id, Fact.status))}
            assert now.keys() == self.accepted.keys(), "a fact was lost, or came from nowhere"
            for fact_id, before in self.accepted.items():
                after = now[fact_id]
                assert after == before or after in NEXT[before], f"{fact_id}: {before} -> {after}"
            self.accepted = now
            gone = (Fact.status.in_(("superseded", "retracted")),)
            text = session.scalar(select(Fact.text).where(*gone).order_by(Fact.id.desc()).limit(1))
            if text is not None:
                found = overlay.find(session, text, 20)
                assert {fact.status for fact in found} <= ANSWERED_IN_CONTEXT


ACTS = {
    "checkpoint.rollback": "rollback",
    "fact.supersede": "supersede",
    "fact.requeue": "requeue",
    "fact.lapse": "lapse",
    "fact.retract": "retract",
}


def test_every_promise_holds_after_every_step(database: Database, tell) -> None:
    machine = type("Machine", (Ledger,), {"database": database, "done": 0, "seen": Counter()})
    examples = settings(
        max_examples=math.ceil(STEPS / STEPS_PER_EXAMPLE),
        stateful_step_count=STEPS_PER_EXAMPLE,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    run_state_machine_as_test(machine, settings=examples)
    seen = machine.seen
    assert machine.done >= STEPS
    assert {name: seen[name] for name in MUST_HAPPEN if not seen[name]} == {}
    tell(f"{machine.done} steps, every promise held after each; {dict(sorted(seen.items()))}")
