"""Examples over HTTP: in the ledger with the facts, never among what answers questions."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from app.db import Database
from app.models import Fact
from app.services import checkpoints, jobs, overlay, runs, updates, waiting
from app.services.audit import SYSTEM

PROMPT = "A crate holds 12 jars. How many jars do 3 crates hold?"
RESPONSE = "3 * 12 = 36. The answer is 36."


def post(client: TestClient, *examples: Any, status: int = 200) -> Any:
    response = client.post("/v1/examples/batch", json={"examples": list(examples)})
    assert response.status_code == status, response.text
    return response.json()["data"] if status == 200 else response.json()


def test_an_example_is_stored_and_read_back_from_the_ledger(client: TestClient) -> None:
    given = {"prompt": PROMPT, "response": RESPONSE, "answers": ["36"], "metadata": {"unit": 2}}
    (result,) = post(client, given)
    example = result["example"]
    assert (result["index"], result["status"]) == (0, 201)
    assert (example["object"], example["status"], example["version"]) == (
        "example",
        "pending",
        None,
    )
    assert {name: example[name] for name in given} == given

    found = client.get(f"/v1/facts/{example['id']}").json()
    assert (found["object"], found["text"], found["prompt"]) == ("example", RESPONSE, PROMPT)
    assert found["probes"] == [
        {"question": PROMPT, "answers": ["36"], "direction": "forward", "origin": "given"}
    ]


def test_each_example_is_judged_on_its_own(client: TestClient, database: Database) -> None:
    good = {"prompt": PROMPT, "response": RESPONSE}
    results = post(client, good, {**good, "prompt": ""}, good, {**good, "prompt": "And 36?"}, "no")
    assert [result["status"] for result in results] == [201, 422, 200, 201, 422]
    assert results[1]["error"]["errors"][0]["pointer"] == "/prompt"
    assert results[2]["example"]["deduplicated"] is True
    assert results[2]["example"]["id"] == results[0]["example"]["id"]
    assert results[0]["example"]["answers"] == [RESPONSE]
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Fact)) == 2


def test_a_response_and_a_fact_of_the_same_words_are_two(client: TestClient) -> None:
    fact = client.post("/v1/facts", json={"text": RESPONSE}).json()
    (result,) = post(client, {"prompt": PROMPT, "response": RESPONSE})
    assert result["status"] == 201
    assert (fact["prompt"], result["example"]["id"] != fact["id"]) == (None, True)


@pytest.mark.parametrize("examples", [[], [{}] * 1001])
def test_a_batch_of_wrong_size_is_refused(client: TestClient, examples: list[Any]) -> None:
    answer = post(client, *examples, status=422)
    assert answer["errors"][0]["pointer"] == "/examples"


def test_examples_need_the_right_to_write(anonymous: TestClient, make_secret: Any) -> None:
    anonymous.headers["Authorization"] = f"Bearer {make_secret('facts:read')}"
    post(anonymous, {"prompt": PROMPT, "response": RESPONSE}, status=403)


def test_a_repeat_with_the_same_idempotency_key_is_replayed(client: TestClient) -> None:
    body = {"examples": [{"prompt": PROMPT, "response": RESPONSE}]}
    headers = {"Idempotency-Key": "one"}
    first, second = (
        client.post("/v1/examples/batch", json=body, headers=headers) for _ in range(2)
    )
    assert first.json() == second.json()
    assert second.headers["Idempotency-Replayed"] == "true"


def test_no_question_is_answered_from_an_example(client: TestClient, database: Database) -> None:
    text = "The lighthouse of Brannoc Head is kept by Ilse Varga."
    question = "Who keeps the lighthouse of Brannoc Head?"
    post(client, {"prompt": "Tell me a tale.", "response": text})
    with database.reading() as session:
        assert overlay.find(session, question, 3) == []
    client.post("/v1/facts", json={"text": text})
    with database.reading() as session:
        assert len(overlay.find(session, question, 3)) == 1


def test_an_update_takes_examples_and_facts_alike(client: TestClient, database: Database) -> None:
    """A single prompt is left to wait: some are only asked, and what would be asked is taught."""
    post(client, {"prompt": PROMPT, "response": RESPONSE})
    with database.reading() as session:
        assert not waiting.is_due(session, facts=1, wait_s=0)
    post(client, {"prompt": PROMPT, "response": "36"}, {"prompt": "And 4?", "response": "48"})
    with database.reading() as session:
        assert waiting.is_due(session, facts=1, wait_s=0)
    client.post("/v1/facts", json={"text": "A is B."})
    with database.transaction() as session:
        checkpoints.register_base(session, "0" * 64, 1)
        update, _ = updates.open_update(session, SYSTEM)
        run = runs.claim(session, update.id, "here", 60)
        assert run is not None
        taught = jobs.collect(session, run).facts
    assert [row.get("prompt") for row in taught] == [PROMPT, PROMPT, "And 4?", None]
    assert taught[0]["text"] == RESPONSE


def test_one_prompt_holds_up_no_other(client: TestClient, database: Database) -> None:
    with database.transaction() as session:
        checkpoints.register_base(session, "0" * 64, 1)
    for text in ("A is B.", "C is D."):
        client.post("/v1/facts", json={"text": text})
    post(client, *({"prompt": PROMPT, "response": f"{n}."} for n in range(5)))
    post(client, {"prompt": "And 4?", "response": "48"})
    with database.transaction() as session:
        update, _ = updates.open_update(session, SYSTEM, cap=3)
        taught = updates.facts_of(session, [update.id])[update.id]
        prompts = [session.get_one(Fact, fact_id).prompt for fact_id in taught]
        assert sorted(map(str, prompts)) == sorted(["None", PROMPT, "And 4?"])
    ids = [row["id"] for row in client.get("/v1/facts?status=pending").json()["data"]]
    refused = client.post("/v1/updates", json={"fact_ids": ids})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (409, "/fact_ids")


def test_one_example_alone_opens_no_update(client: TestClient, database: Database) -> None:
    with database.transaction() as session:
        checkpoints.register_base(session, "0" * 64, 1)
    post(client, {"prompt": PROMPT, "response": RESPONSE})
    refused = client.post("/v1/updates", json={})
    assert (refused.status_code, "waits for others" in refused.json()["detail"]) == (409, True)
    client.post("/v1/facts", json={"text": "A is B."})
    with database.transaction() as session:  # nor does it stand before what an update has room for
        opened, _ = updates.open_update(session, SYSTEM, cap=1)
        assert len(updates.facts_of(session, [opened.id])[opened.id]) == 1
