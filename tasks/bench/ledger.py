"""Measure the ledger: ``python -m tasks.bench.ledger --database URL --facts 10000 1000000``.

Takes an empty database. Prints the rate of batch intake beside bare INSERTs of the same rows, and
for each size of the ledger the 95th percentile of what clients ask for, in milliseconds.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from app.db import Database, utc_now
from app.migrate import migrate
from app.models import Activation, Checkpoint, Fact, Update, UpdateFact
from app.services import activations, checkpoints, facts, overlay, search
from app.services.audit import SYSTEM
from app.services.pages import Page

CHECKPOINTS, BATCH, ASKED = 500, 500, 100
WORDS = [
    f"{first}{last}" for first in ("ba", "ke", "li", "mo", "nu") for last in "bcdfghklmnprstvz"
]


def main() -> None:
    """Measure and print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", required=True, help="URL of an empty database")
    parser.add_argument("--facts", type=int, nargs="+", default=[10_000, 1_000_000])
    chosen = parser.parse_args()
    migrate(chosen.database)
    database = Database(chosen.database)
    measure_intake(database)
    add_versions(database)
    for size in chosen.facts:
        fill(database, size)
        measure(database, size)
    database.close()


def measure_intake(database: Database) -> None:
    """Compare submitted batches with bare INSERTs of as many rows in one transaction."""
    count = 10 * BATCH
    started = time.perf_counter()
    with database.transaction() as session:
        session.execute(insert(Fact), list(make_rows(0, count)))
    bare = count / (time.perf_counter() - started)
    started = time.perf_counter()
    for begin in range(count, 2 * count, BATCH):
        batch = [Fact(text=row["text"], probes=[]) for row in make_rows(begin, BATCH)]
        with database.transaction() as session:
            facts.submit_batch(session, SYSTEM, [(fact, "supersede") for fact in batch])
    taken = count / (time.perf_counter() - started)
    show(f"intake: {taken:,.0f} facts/s, bare INSERTs {bare:,.0f}/s: {taken / bare:.2f}x")


def add_versions(database: Database) -> None:
    """Add a line of versions, each with its update, all once current."""
    with database.transaction() as session:
        checkpoints.register_base(session, "0" * 64, 1_000_000)
        for version in range(1, CHECKPOINTS + 1):
            made = Update(id=f"update_{version}", recipe={}, status="succeeded")
            session.add(made)
            session.flush()
            row = Checkpoint(version=version, digest=f"{version:064x}", kind="full")
            row.parent, row.update_id = version - 1, made.id
            session.add(row)
            session.flush()
            last = activations.current(session)
            step = Activation(previous_id=last.id if last else 0, version=version, kind="manual")
            step.actor = SYSTEM.name
            session.add(step)
            session.flush()


def fill(database: Database, size: int) -> None:
    """Add learned facts, spread over the versions, until there are so many."""
    with database.reading() as session:
        present = session.scalars(select(func.count()).select_from(Fact)).one()
    for begin in range(present, size, 10_000):
        rows = list(make_rows(begin, min(10_000, size - begin), status="trained"))
        parts = [
            {
                "update_id": f"update_{number % CHECKPOINTS + 1}",
                "fact_id": row["id"],
                "active": False,
                "proven": True,
            }
            for number, row in enumerate(rows)
        ]
        with database.transaction() as session:
            session.execute(insert(Fact), rows)
            session.execute(insert(UpdateFact), parts)
    if database.engine.dialect.name == "postgresql":  # as its autovacuum does within a minute
        with database.transaction() as session:
            session.execute(text("ANALYZE"))


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


def measure(database: Database, size: int) -> None:
    """Print the latencies of one size of the ledger."""
    chance = random.Random(size)
    questions: dict[str, Callable[[Session], object]] = {
        "list": lambda s: facts.list_facts(s, Page(), status="learned"),
        "list by source": lambda s: facts.list_facts(
            s, Page(), source=f"source {chance.randrange(1000)}"
        ),
        "list held": lambda s: facts.list_facts(s, Page(), status="held"),
        "search": lambda s: search.search(s, f"place{chance.randrange(size)}", 20),
        "search common": lambda s: search.search(s, chance.choice(WORDS), 20),
        "search phrase": lambda s: search.search(
            s, next(make_rows(chance.randrange(size), 1))["text"], 20
        ),
        "overlay": lambda s: overlay.find(s, f"What is place{chance.randrange(size)}?", 5),
        "current": lambda s: checkpoints.resolve(s, None),
    }
    for name, question in questions.items():
        with database.reading() as session:
            show_p95(f"{size:,} facts, {name}", [clock(question, session) for _ in range(ASKED)])
    taken = []
    for turn in range(20):
        target = CHECKPOINTS - 1 - turn % 2
        started = time.perf_counter()
        with database.transaction() as session:
            activations.rollback(session, SYSTEM, reason="bench", to=target)
        taken.append(1000 * (time.perf_counter() - started))
    show_p95(f"{size:,} facts, rollback", taken)


def clock(question: Callable[[Session], object], session: Session) -> float:
    """Return the milliseconds that a question takes, nothing remembered from earlier ones."""
    session.expire_all()
    started = time.perf_counter()
    question(session)
    return 1000 * (time.perf_counter() - started)


def show_p95(name: str, taken: Sequence[float]) -> None:
    """Print the 95th percentile."""
    show(f"{name}: p95 {sorted(taken)[int(0.95 * len(taken)) - 1]:.1f} ms")


def show(line: str) -> None:
    """Print at once."""
    print(line, flush=True)  # noqa: T201 - a report


if __name__ == "__main__":
    main()
