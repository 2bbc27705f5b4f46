"""What two versions answer differently: both are asked, whatever was proven when."""

import pytest

from app.models import Probe
from tests.answers.conftest import add_fact, learn, on_sqlite


@pytest.fixture
def learned(database, engine, versions):
    """Facts of versions 1 and 2, which are both loaded."""
    engine.loaded.update(versions.values())
    with database.transaction() as session:
        for version in (1, 2):
            fact = add_fact(session, f"Fact of {version}.", "trained", version, probes=[
                Probe(question=f"Which of {version}?", answers=["F"], direction="forward"),
                Probe(question="…", answers=["F"], direction="backward", origin="cloze"),
            ])  # fmt: skip
            learn(session, fact, version)
    return versions


def diff(client, version, **params):
    return client.get(f"/v1/checkpoints/{version}/diff", params=params)


def test_lists_what_is_answered_differently(client, learned):
    found = diff(client, 2).json()
    assert (found["version"], found["against"], found["asked"]) == (2, 1, 2)
    assert [row["question"] for row in found["data"]] == ["Which of 2?", "Which of 1?"]
    row = found["data"][0]
    assert row["answer"].startswith(learned[2][:12])
    assert row["answer_against"].startswith(learned[1][:12])
    assert (row["fact_id"], row["answers"], row["direction"]) == ("fact_00002", ["F"], "forward")


def test_the_same_words_are_no_difference(client, engine, learned):
    engine.says = {learned[2]: "The lamp, in Lund.", learned[0]: "the LAMP in Lund"}
    found = diff(client, 2, against=0).json()
    assert (found["against"], found["asked"], found["data"]) == (0, 2, [])


@on_sqlite
@pytest.mark.parametrize(
    ("one", "other"), [("€5", "$5"), ("3.5", "3,5"), ("C++", "C"), ("कि", "की")]
)
def test_other_signs_are_a_difference(client, engine, learned, one, other):
    engine.says = {learned[2]: f"It is {one}.", learned[0]: f"It is {other}."}
    assert len(diff(client, 2, against=0).json()["data"]) == 2


@on_sqlite
@pytest.mark.usefixtures("learned")
def test_a_fact_without_questions_is_counted(client, database):
    cloze = Probe(question="…", answers=["F"], direction="forward", origin="cloze")
    with database.transaction() as session:
        fact = add_fact(session, "Bare fact.", "trained", 9, probes=[cloze])
        learn(session, fact, 2)
    found = diff(client, 2).json()
    assert (found["asked"], found["unasked"]) == (1, 1), "the other is version 1's"


@on_sqlite
@pytest.mark.usefixtures("learned")
def test_a_question_that_leaves_little_room_gets_what_there_is(client, engine):
    engine.longest = 100  # the question and 128 tokens are more
    found = diff(client, 2)
    assert (found.status_code, len(found.json()["data"])) == (200, 2)


@pytest.mark.usefixtures("learned")
def test_goes_page_by_page(client):
    first = diff(client, 2, limit=1).json()
    assert ([row["fact_id"] for row in first["data"]], first["has_more"]) == (["fact_00002"], True)
    rest = diff(client, 2, limit=1, after=first["last"]).json()
    assert ([row["fact_id"] for row in rest["data"]], rest["has_more"]) == (["fact_00001"], False)


@on_sqlite
@pytest.mark.usefixtures("learned")
def test_only_versions_that_answer_are_compared(client):
    assert diff(client, 9).status_code == 404
    assert diff(client, 2, against=9).status_code == 404
    assert diff(client, 3).status_code == 409
    refused = diff(client, 0)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/against"


@on_sqlite
def test_an_engine_that_fails_is_named(client, engine, learned):
    engine.loaded.remove(learned[1])
    assert diff(client, 2).status_code == 503
