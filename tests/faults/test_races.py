"""Two API processes and many clients at once: one fact a key, one winner a revision."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import func, select

from app.models import Activation, Checkpoint, Fact, Update
from tests.faults.checks import find_problems
from tests.faults.clients import Clients, serve
from tests.faults.conftest import sized
from tests.worker.conftest import Deployment

pytestmark = pytest.mark.timeout(900)
RACERS, KEYS = 50, sized(100)
ADMINS, ROUNDS = 32, sized(20)
VERSIONS = 4


@pytest.fixture
def clients(deployment: Deployment) -> Iterator[Clients]:
    """Clients of two API processes."""
    with serve(deployment, 2) as clients:
        yield clients


def test_racing_posts_with_one_key_make_one_fact(
    deployment: Deployment, clients: Clients, tell
) -> None:
    barrier = Barrier(RACERS)

    def race(number: int) -> list[tuple[int, str, bool]]:
        answers = []
        for key in range(KEYS):
            barrier.wait(120)
            body = {"text": f"Gate {key} is blue."}
            status, answer, replayed = clients.post(
                number, "/v1/facts", body, **{"Idempotency-Key": f"key-{key}"}
            )
            answers.append((status, answer.get("id", str(answer)), replayed))
        return answers

    with ThreadPoolExecutor(RACERS) as pool:
        by_racer = list(pool.map(race, range(RACERS)))
    for key in range(KEYS):
        answers = [mine[key] for mine in by_racer]
        assert {status for status, _, _ in answers} == {201}
        assert len({fact_id for _, fact_id, _ in answers}) == 1
        assert sum(not replayed for _, _, replayed in answers) == 1
    with deployment.database.reading() as session:
        assert session.scalars(select(func.count()).select_from(Fact)).one() == KEYS
    tell(f"{RACERS} racing POSTs x {KEYS} keys: 1 fact each, the rest replays")


def test_racing_activations_have_one_winner(deployment: Deployment, clients: Clients, tell) -> None:
    with deployment.database.transaction() as session:
        for version in range(1, VERSIONS + 1):
            made = Update(recipe={}, status="succeeded", outcome="held")
            session.add(made)
            session.flush()
            digest = f"{version:064x}"
            row = Checkpoint(version=version, digest=digest, kind="full", parent=0)
            row.update_id = made.id
            session.add(row)
    barrier = Barrier(ADMINS)

    def race(number: int) -> list[int | str]:
        statuses = []
        for turn in range(ROUNDS):
            now = 0 if turn == 0 else winners[turn - 1]
            others = [version for version in range(VERSIONS + 1) if version != now]
            wanted = others[number % len(others)]
            body = {"expected_current": now, "reason": f"round {turn}"}
            if number % 2:
                path, body = "/v1/rollback", {**body, "to": wanted}
            else:
                path = f"/v1/checkpoints/{wanted}/activate"
            barrier.wait(120)
            status, answer, _ = clients.post(number, path, body)
            statuses.append(status if status in (200, 409) else f"{status}: {answer}")
            if status == 200:
                winners[turn] = answer["version"]
            barrier.wait(120)
        return statuses

    winners: dict[int, int] = {}
    with ThreadPoolExecutor(ADMINS) as pool:
        by_admin = list(pool.map(race, range(ADMINS)))
    for turn in range(ROUNDS):
        assert Counter(mine[turn] for mine in by_admin) == {200: 1, 409: ADMINS - 1}
    with deployment.database.reading() as session:
        assert find_problems(session) == []
        ledger = session.scalars(select(Activation.version).order_by(Activation.id)).all()
    assert list(ledger) == [0, *(winners[turn] for turn in range(ROUNDS))]
    tell(f"{ADMINS} racing activations and rollbacks x {ROUNDS}: 1 winner each, the rest 409")
