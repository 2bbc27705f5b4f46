"""Measure the ledger: ``python -m tasks.bench.ledger --database URL --facts 10000 1000000``.

Takes an empty database. Prints the rate of batch intake beside bare INSERTs of the same rows, then
what clients ask for: the 95th percentile in milliseconds, a column for each size that the ledger
grows to, and how many times the first size's the last one's is.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from app.db import Database, utc_now
from app.migrate import migrate
from app.models import Activation, Checkpoint, Fact, Update, UpdateFact
from app.services import activations, checkpoints, facts, overlay, search
from app.services.audit import SYSTEM
from app.services.pages import Page

CHECKPOINTS, BATCH, ASKED, HELD = 500, 500, 100, 250
WORDS = [
    f"{first}{last}" for first in ("ba", "ke", "li", "mo", "nu") for last in "bcdfghklmnprstvz"
]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", required=True, help="URL of an empty database")
    parser.add_argument("--facts", type=int, nargs="+", default=[10_000, 1_000_000])
    chosen = parser.parse_args()
    migrate(chosen.database)
    database = Database(chosen.database)
    measure_intake(database)
    add_versions(database)
    add_held(database)
    columns = []
    for size in chosen.facts:
        started = time.perf_counter()
        fill(database, size)
        show(f"filled up to {size:,} facts: {time.perf_counter() - started:,.0f} s")
        columns.append(measure(database, size))
    database.close()
    show(f"{'p95, ms':30}" + "".join(f"{size:>12,}" for size in chosen.facts) + "   last/first")
    for name in columns[0]:
        row = [column[name] for column in columns]
        figures = "".join(f"{figure:12.1f}" for figure in row)
        show(f"{name:30}{figures}{row[-1] / row[0]:12.1f}x")


def measure_intake(database: Database) -> None:
    """Compare submitted batches with bare INSERTs of as many rows in one transaction."""
    many = 10 * BATCH
    started = time.perf_counter()
    with database.transaction() as session:
        session.execute(insert(Fact), list(make_rows(0, many)))
    bare = many / (time.perf_counter() - started)
    started = time.perf_counter()
    for begin in range(many, 2 * many, BATCH):
        batch = [Fact(text=row["text"], probes=[]) for row in make_rows(begin, BATCH)]
        with database.transaction() as session:
            facts.submit_batch(session, SYSTEM, [(fact, "supersede") for fact in batch])
    taken = many / (time.perf_counter() - started)
    show(f"intake: {taken:,.0f} facts/s, bare INSERTs {bare:,.0f}/s: {taken / bare:.2f}x")


def add_versions(database: Database) -> None:
    """Add a line of versions, each with its update, all once current."""
    with database.transaction() as session:
        checkpoints.register_base(session, "0" * 64, 1_000_000)
        for version in range(1, CHECKPOINTS + 1):
            add_version(session, version)
            last = activations.current(session)
            step = Activation(previous_id=last.id if last else 0, version=version, kind="manual")
            step.actor = SYSTEM.name
            session.add(step)
            session.flush()


def add_version(session: Session, version: int) -> None:
    """Add a version on top of the one before, and the update that made it."""
    made = Update(id=f"update_{version}", recipe={}, status="succeeded")
    session.add(made)
    session.flush()
    row = Checkpoint(version=version, digest=f"{version:064x}", kind="full")
    row.parent, row.update_id = version - 1, made.id
    session.add(row)
    session.flush()


def add_held(database: Database) -> None:
    """Add a version that never was current, and its facts."""
    with database.transaction() as session:
        add_version(session, CHECKPOINTS + 1)
        add_learned(session, count(session), HELD, [CHECKPOINTS + 1])


def fill(database: Database, size: int) -> None:
    """Add learned facts, spread over the versions that were current, until there are so many."""
    with database.reading() as session:
        present = count(session)
    for begin in range(present, size, 10_000):
        with database.transaction() as session:
            versions = range(1, CHECKPOINTS + 1)
            add_learned(session, begin, min(10_000, size - begin), versions)
    if database.engine.dialect.name == "postgresql":  # as its autovacuum does within a minute
        with database.transaction() as session:
            session.execute(text("ANALYZE"))


def count(session: Session) -> int:
    """Return how many facts there are."""
    return session.scalars(select(func.count()).select_from(Fact)).one()


def add_learned(session: Session, begin: int, number: int, versions: Sequence[int]) -> None:
    """Add so many facts that these versions proved in turn."""
    rows = list(make_rows(begin, number, status="trained"))
    session.execute(insert(Fact), rows)
    parts = [
        {"update_id": f"update_{version}", "fact_id": row["id"], "active": False, "proven": True}
        for version, row in zip(cycle(versions), rows, strict=False)
    ]
    session.execute(insert(UpdateFact), parts)


def make_rows(begin: int, count: int, status: str = "pending") -> Iterator[dict[str, Any]]:
    """Yield rows of facts with texts of their own."""
    for number in range(begin, begin + count):
        chance = random.Random(number)
        words = " ".join(chance.choices(WORDS, k=5))
        yield {
            "id": f"fact_{number:012}",
            "text": f"The {words} of place{number} is {number}.",
            "text_digest": f"{number:064x}",
            "status": status,
            "source": f"source {number % 1000}",
            "details": {},
            "created_at": utc_now(),
            "updated_at": utc_now(),
        }


def measure(database: Database, size: int) -> dict[str, float]:
    """Return the 95th percentiles of one size of the ledger, in milliseconds."""
    chance = random.Random(size)
    questions: dict[str, Callable[[Session], object]] = {
        "list": lambda s: facts.list_facts(s, Page(), status="learned"),
        "list by source": lambda s: facts.list_facts(
            s, Page(), source=f"source {chance.randrange(1000)}"
        ),
        "list held": lambda s: facts.list_facts(s, Page(), status="held"),
        "search, a rare word": lambda s: search.search(s, f"place{chance.randrange(size)}", 20),
        "search, a common word": lambda s: search.search(s, chance.choice(WORDS), 20),
        "search, a statement": lambda s: search.search(
            s, next(make_rows(chance.randrange(size), 1))["text"], 20
        ),
        "in context, a rare word": lambda s: overlay.find(
            s, f"What is place{chance.randrange(size)}?", 5
        ),
        "in context, common words": lambda s: overlay.find(
            s, f"Is {chance.choice(WORDS)} {chance.choice(WORDS)} {chance.choice(WORDS)}?", 5
        ),
        "current version": lambda s: checkpoints.resolve(s, None),
    }
    found = {}
    for name, question in questions.items():
        with database.reading() as session:
            found[name] = p95([clock(question, session) for _ in range(ASKED)])
    taken = []
    for turn in range(20):
        target = CHECKPOINTS - 1 - turn % 2
        started = time.perf_counter()
        with database.transaction() as session:
            activations.rollback(session, SYSTEM, reason="bench", to=target)
        taken.append(1000 * (time.perf_counter() - started))
    return found | {"rollback, commit included": p95(taken)}


def clock(question: Callable[[Session], object], session: Session) -> float:
    """Return the milliseconds that a question takes, nothing remembered from earlier ones."""
    session.expire_all()
    started = time.perf_counter()
    question(session)
    return 1000 * (time.perf_counter() - started)


def p95(taken: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return sorted(taken)[int(0.95 * len(taken)) - 1]


def show(line: str) -> None:
    """Print at once."""
    print(line, flush=True)  # noqa: T201 - a report


if __name__ == "__main__":
    main()
