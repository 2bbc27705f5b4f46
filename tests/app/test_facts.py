import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import func, insert, select

from app.config import Settings
from app.db import Database, utc_now
from app.main import create_app
from app.models import Audit, Fact, Probe
from app.services import search
from tests.app.conftest import NO_ENGINE

TEXT = "The lighthouse of Brannoc Head is kept by Ilse Varga."
PROBE = {"question": "Who keeps it?", "answers": ["Ilse Varga"], "direction": "forward"}


def post(client: TestClient, **fact: Any) -> dict[str, Any]:
    response = client.post("/v1/facts", json={"text": TEXT, **fact})
    assert response.status_code in (200, 201), response.text
    answer: dict[str, Any] = response.json()
    return answer


def count(database: Database, model: type) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(model)) or 0


def test_the_last_day_of_the_calendar_is_read_in_any_zone(
    database_url: str, tmp_path: Path, make_secret: Callable[..., str]
) -> None:
    if database_url.startswith("postgresql"):
        database_url += "?options=-c%20timezone%3DEurope/Berlin"
    given = {"database_url": database_url, "data_dir": tmp_path, "engine_url": NO_ENGINE}
    head = {"Authorization": f"Bearer {make_secret('admin')}"}
    with TestClient(create_app(Settings(**given, _env_file=None)), headers=head) as client:
        last = "9999-12-31T23:59:59Z"
        posted = client.post("/v1/facts", json={"text": "A is B.", "valid_until": last})
        assert posted.status_code == 201
        (row,) = client.get("/v1/facts").json()["data"]
        assert row["valid_until"] == last


def test_a_fact_is_stored_and_read_back(client: TestClient) -> None:
    given = {
        "text": TEXT,
        "probes": [PROBE],
        "key": "brannoc/keeper",
        "source": "register",
        "valid_from": "2026-01-01T00:00:00+02:00",
        "metadata": {"page": [1, 2.5, None], "note": "Über"},
    }
    response = client.post("/v1/facts", json=given)
    assert response.status_code == 201
    fact = response.json()
    assert fact.pop("deduplicated") is False
    assert fact["object"] == "fact"
    assert (fact["status"], fact["version"], fact["tries"]) == ("pending", None, 0)
    assert fact["probes"] == [{**PROBE, "origin": "given"}]
    assert fact["valid_from"] == "2025-12-31T22:00:00Z"
    assert {name: fact[name] for name in ("text", "key", "source", "metadata")} == {
        name: given[name] for name in ("text", "key", "source", "metadata")
    }
    assert client.get(f"/v1/facts/{fact['id']}").json() == fact
    assert client.get("/v1/facts").json() == {"object": "list", "data": [fact], "has_more": False}


def test_the_same_text_and_key_is_one_fact(client: TestClient, database: Database) -> None:
    first = post(client, text="Café Zuhn opens at nine.")
    again = client.post("/v1/facts", json={"text": "  Cafe\u0301 Zuhn opens at nine.\n"})
    assert again.status_code == 200
    assert again.json() == {**first, "deduplicated": True}
    assert post(client, text="Café Zuhn opens at nine.", key="zuhn")["id"] != first["id"]
    assert count(database, Fact) == 2


def test_special_tokens_are_text(client: TestClient) -> None:
    text = "<|end|> <|user|> is how [MASK] marks </s> a turn."
    assert post(client, text=text)["text"] == text


def test_lines_tabs_and_eight_kilobytes_are_fine(client: TestClient) -> None:
    assert post(client, text="One\n\ttwo.")["text"] == "One\n\ttwo."
    assert len(post(client, text="é" * 4096)["text"]) == 4096


BAD_FACTS: list[tuple[Any, str]] = [
    ({}, "/text"),
    ({"text": ""}, "/text"),
    ({"text": " \n\t\u00a0 "}, "/text"),
    ({"text": "\u200b\u200b"}, "/text"),
    ({"text": 5}, "/text"),
    ({"text": None}, "/text"),
    ({"text": "é" * 4097}, "/text"),
    ({"text": "a\u0000b"}, "/text"),
    ({"text": "a\u001b[31mb"}, "/text"),
    ({"text": "a\ud800b"}, "/text"),
    ({"text": "a", "txet": "b"}, "/txet"),
    ({"text": "a", "x\ud800": "b"}, ""),
    ({"text": "a", "probes": {}}, "/probes"),
    ({"text": "a", "probes": [{**PROBE, "answers": []}]}, "/probes/0/answers"),
    ({"text": "a", "probes": [{**PROBE, "answers": [" "]}]}, "/probes/0/answers/0"),
    ({"text": "a", "probes": [{**PROBE, "answers": "x"}]}, "/probes/0/answers"),
    ({"text": "a", "probes": [{"question": "Who?"}]}, "/probes/0/answers"),
    ({"text": "a", "probes": [PROBE, {**PROBE, "question": ""}]}, "/probes/1/question"),
    ({"text": "a", "probes": [{**PROBE, "direction": "up"}]}, "/probes/0/direction"),
    ({"text": "a", "probes": [{**PROBE, "hint": "x"}]}, "/probes/0/hint"),
    ({"text": "a", "probes": [PROBE] * 33}, "/probes"),
    ({"text": "a", "key": ""}, "/key"),
    ({"text": "a", "key": "two\nlines"}, "/key"),
    ({"text": "a", "key": "k" * 201}, "/key"),
    ({"text": "a", "source": "\u0000"}, "/source"),
    ({"text": "a", "on_conflict": "merge"}, "/on_conflict"),
    ({"text": "a", "valid_from": "yesterday"}, "/valid_from"),
    ({"text": "a", "valid_from": "2026-01-01T00:00:00"}, "/valid_from"),
    ({"text": "a", "valid_from": "0001-01-01T00:00:00+14:00"}, "/valid_from"),
    (
        {"text": "a", "valid_from": "2026-02-01T00:00Z", "valid_until": "2026-01-01T00:00Z"},
        "/valid_until",
    ),
    ({"text": "a", "metadata": []}, "/metadata"),
    ({"text": "a", "metadata": {"x": float("nan")}}, "/metadata"),
    ({"text": "a", "metadata": {"x": "\ud800"}}, "/metadata"),
    ({"text": "a", "metadata": {"x": "y" * 16384}}, "/metadata"),
    ([], ""),
    ("text", ""),
]


def test_bad_facts_are_refused_by_field_and_store_nothing(
    client: TestClient, database: Database
) -> None:
    acts = count(database, Audit)
    headers = {"Content-Type": "application/json"}
    for fact, pointer in BAD_FACTS:
        # json.dumps and not `json=`: it writes NaN and lone surrogates too.
        response = client.post("/v1/facts", content=json.dumps(fact), headers=headers)
        assert response.status_code == 422, (fact, response.text)
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["errors"][0]["pointer"] == pointer, fact
    assert (count(database, Fact), count(database, Probe)) == (0, 0)
    assert count(database, Audit) == acts


def test_metadata_may_be_deep_or_is_refused(client: TestClient) -> None:
    for depth in (50, 200, 500, 3000, 8000):
        value = "[" * depth + "]" * depth
        body = f'{{"text": "Deep {depth}.", "metadata": {{"x": {value}}}}}'
        response = client.post(
            "/v1/facts", content=body, headers={"Content-Type": "application/json"}
        )
        assert response.status_code in (201, 400, 422), (depth, response.text)
        if response.status_code == 201:
            assert client.get(f"/v1/facts/{response.json()['id']}").status_code == 200


def test_racing_submits_of_one_fact_store_one(client: TestClient, database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/facts", json={"text": TEXT}), range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert count(database, Fact) == 1


def test_a_newer_fact_supersedes_the_older_one_of_its_key(client: TestClient) -> None:
    old = post(client, text="The keeper is Ilse.", key="keeper")
    new = post(client, text="The keeper is Jorun.", key="keeper")
    old = client.get(f"/v1/facts/{old['id']}").json()
    assert (old["status"], old["superseded_by"]) == ("superseded", new["id"])
    back = post(client, text="The keeper is Ilse.", key="keeper")
    assert back["id"] != old["id"]
    assert back["deduplicated"] is False
    live = client.get("/v1/facts", params={"status": "pending", "key": "keeper"}).json()["data"]
    assert [fact["id"] for fact in live] == [back["id"]]


def test_a_conflict_can_be_refused_or_kept(client: TestClient) -> None:
    old = post(client, text="The keeper is Ilse.", key="keeper")
    refused = client.post(
        "/v1/facts",
        json={"text": "The keeper is Jorun.", "key": "keeper", "on_conflict": "reject"},
    )
    assert refused.status_code == 409
    assert old["id"] in refused.json()["detail"]
    assert refused.json()["errors"][0]["pointer"] == "/key"
    post(client, text="The keeper is Jorun.", key="keeper", on_conflict="keep")
    live = client.get("/v1/facts", params={"status": "pending"}).json()["data"]
    assert len(live) == 2


def test_what_does_not_hold_now_replaces_nothing_that_does(
    client: TestClient, database: Database
) -> None:
    past, soon = (utc_now() + timedelta(days) for days in (-1, 1))
    begins, ended = {"valid_from": soon.isoformat()}, {"valid_until": past.isoformat()}
    old = post(client, text="The fee is 5.", key="fee")
    later = {"text": "The fee is 6.", "key": "fee", **begins}
    refused = client.post("/v1/facts", json=later)
    assert (refused.status_code, old["id"] in refused.json()["detail"]) == (422, True)
    assert refused.json()["errors"][0]["pointer"] == "/valid_from"
    refused = client.post("/v1/facts", json={"text": "The fee was 4.", "key": "fee", **ended})
    assert refused.json()["errors"][0]["pointer"] == "/valid_until"
    assert client.get(f"/v1/facts/{old['id']}").json()["status"] == "pending"
    # Nothing holds now: it takes the place of what has ended, or begins later, too.
    post(client, text="The toll is 5.", key="toll", **ended)
    for text in ("The toll is 6.", "The toll is 7."):
        post(client, text=text, key="toll", **begins)
    items = [
        later,
        {"text": "The mill is red.", "key": "mill"},
        {"text": "The mill is blue.", "key": "mill", **begins},
        {**later, "on_conflict": "keep"},
    ]
    results = client.post("/v1/facts/batch", json={"facts": items}).json()["data"]
    assert [result["status"] for result in results] == [422, 201, 422, 201]
    assert results[2]["error"]["errors"][0]["pointer"] == "/valid_from"
    live = client.get("/v1/facts", params={"status": "pending", "order": "asc"}).json()["data"]
    texts = ["The fee is 5.", "The toll is 7.", "The mill is red.", "The fee is 6."]
    assert [fact["text"] for fact in live] == texts
    assert count(database, Fact) == 6


def test_racing_facts_of_one_key_leave_one_live(client: TestClient) -> None:
    def submit(number: int) -> int:
        fact = {"text": f"The keeper is number {number}.", "key": "keeper"}
        return client.post("/v1/facts", json=fact).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(submit, range(12))) == {201}
    assert len(client.get("/v1/facts", params={"status": "pending"}).json()["data"]) == 1
    replaced = client.get("/v1/facts", params={"status": "superseded"}).json()["data"]
    assert len(replaced) == 11
    assert len({fact["superseded_by"] for fact in replaced}) == 11


def test_lists_page_both_ways_and_filter(client: TestClient) -> None:
    ids = [
        post(client, text=f"Fact {number}.", source=f"s{number % 2}")["id"] for number in range(5)
    ]
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        seen: list[str] = []
        params: dict[str, Any] = {"limit": 2, "order": order}
        for more in (True, True, False):
            page = client.get("/v1/facts", params=params).json()
            assert page["has_more"] is more
            seen += [fact["id"] for fact in page["data"]]
            params["after"] = seen[-1]
        assert seen == expected
    odd = client.get("/v1/facts", params={"source": "s1"}).json()["data"]
    assert [fact["id"] for fact in odd] == [ids[3], ids[1]]


def test_bad_queries_are_refused_by_name(client: TestClient) -> None:
    bad = [
        ({"after": "fact_unknown"}, "/after"),
        ({"after": "\u0000"}, "/after"),
        ({"limit": 0}, "/limit"),
        ({"limit": 101}, "/limit"),
        ({"order": "up"}, "/order"),
        ({"status": "trained"}, "/status"),
        ({"staus": "pending"}, "/staus"),
    ]
    for params, pointer in bad:
        response = client.get("/v1/facts", params=params)
        assert response.status_code == 422, params
        assert response.json()["errors"][0]["pointer"] == pointer


def test_unknown_facts_are_not_found(client: TestClient) -> None:
    for fact_id in ("fact_unknown", "search", "a" * 500):
        assert client.get(f"/v1/facts/{fact_id}").status_code == 404
        assert client.delete(f"/v1/facts/{fact_id}").status_code == 404
        assert client.get(f"/v1/facts/{fact_id}/proofs").status_code == 404


def test_search_ranks_by_shared_words(client: TestClient) -> None:
    keeper = post(client, text=TEXT)
    other = post(client, text="The lighthouse of Sørvik is dark. Zoë Ünal left it.")
    post(client, text="Bread costs four marks.")

    def find(query: str, limit: int = 5) -> list[str]:
        response = client.post("/v1/facts/search", json={"query": query, "limit": limit})
        assert response.status_code == 200, response.text
        return [fact["id"] for fact in response.json()["data"]]

    assert find("Who keeps the lighthouse of BRANNOC head?")[0] == keeper["id"]
    assert set(find("lighthouse")) == {keeper["id"], other["id"]}
    assert len(find("lighthouse", limit=1)) == 1
    assert find("zoe unal") == [other["id"]]
    for odd in ('"', "AND OR NOT", "a* (b", "NEAR(", "_ - '", "text:x", "' OR 1=1 --", "_"):
        find(odd)


def test_a_rare_word_is_found_among_many_facts(client: TestClient) -> None:
    wanted = post(client, text="The lamp of place 7 is kept by Brannoc.")
    crowd = [{"text": f"The lamp of place {number} is lit."} for number in range(10, 400)]
    assert client.post("/v1/facts/batch", json={"facts": crowd}).status_code == 200
    query = {"query": "the lamp of the place of Brannoc", "limit": 5}
    found = client.post("/v1/facts/search", json=query).json()["data"]
    assert found[0]["id"] == wanted["id"]
    assert len(found) == 5


def test_a_common_word_gives_the_newest_facts(database: Database) -> None:
    rows = [
        {"id": f"fact_{n:05}", "text": f"The lamp of place {n} is lit.", "text_digest": f"{n:064x}"}
        for n in range(1500)
    ]
    with database.transaction() as session:
        session.execute(insert(Fact), [row | {"status": "trained", "details": {}} for row in rows])
    with database.reading() as session:
        found = [fact.id for fact in search.search(session, "a lit lamp", 20)]
    assert found == [row["id"] for row in rows[:-21:-1]]


def test_a_batch_supersedes_within_itself(client: TestClient) -> None:
    first = post(client, text="The lamp is red.", key="lamp")
    texts = ["The lamp is blue.", "The lamp is red.", "The lamp is red."]
    items = [{"text": text, "key": "lamp"} for text in texts]
    results = client.post("/v1/facts/batch", json={"facts": items}).json()["data"]
    assert [result["status"] for result in results] == [201, 201, 200]
    blue, red, again = (result["fact"]["id"] for result in results)
    assert red == again != first["id"]
    assert [client.get(f"/v1/facts/{id}").json()["status"] for id in (first["id"], blue, red)] == [
        "superseded",
        "superseded",
        "pending",
    ]
    assert client.get(f"/v1/facts/{first['id']}").json()["superseded_by"] == blue
    assert client.get(f"/v1/facts/{blue}").json()["superseded_by"] == red


def test_a_batch_judges_each_item_on_its_own(client: TestClient, database: Database) -> None:
    post(client, text="Known.")
    items: list[Any] = [
        {"text": "One.", "key": "k"},
        {"text": " "},
        {"text": "Known."},
        "no object",
        {"text": "Two.", "key": "k", "on_conflict": "reject"},
        {"text": "One.", "key": "k"},
        {"text": "Three.", "probes": [PROBE]},
    ]
    response = client.post("/v1/facts/batch", json={"facts": items})
    assert response.status_code == 200, response.text
    results = response.json()["data"]
    assert [result["index"] for result in results] == list(range(7))
    assert [result["status"] for result in results] == [201, 422, 200, 422, 409, 200, 201]
    assert results[1]["error"]["errors"][0]["pointer"] == "/text"
    assert results[1]["error"]["status"] == 422
    assert results[4]["error"]["errors"][0]["pointer"] == "/key"
    assert results[5]["fact"]["id"] == results[0]["fact"]["id"]
    assert results[6]["fact"]["probes"] == [{**PROBE, "origin": "given"}]
    assert [bool(result["fact"]) for result in results] == [
        True,
        False,
        True,
        False,
        False,
        True,
        True,
    ]
    assert count(database, Fact) == 3


def test_a_batch_of_wrong_size_is_refused(client: TestClient) -> None:
    bad: list[Any] = [[], [{"text": "a"}] * 1001, {}, None]
    for facts in bad:
        response = client.post("/v1/facts/batch", json={"facts": facts})
        assert response.status_code == 422
        assert response.json()["errors"][0]["pointer"] == "/facts"


def test_a_full_batch_is_stored(client: TestClient, database: Database) -> None:
    items = [{"text": f"Fact {number}.", "key": f"k{number}"} for number in range(1000)]
    response = client.post("/v1/facts/batch", json={"facts": items})
    assert {result["status"] for result in response.json()["data"]} == {201}
    assert count(database, Fact) == 1000


def test_racing_batches_in_opposite_order_both_finish(client: TestClient) -> None:
    items = [{"text": f"Fact {number}.", "key": f"k{number % 7}"} for number in range(60)]

    def submit(facts: list[dict[str, str]]) -> set[int]:
        response = client.post("/v1/facts/batch", json={"facts": facts})
        assert response.status_code == 200, response.text
        return {result["status"] for result in response.json()["data"]}

    with ThreadPoolExecutor(4) as pool:
        for statuses in pool.map(submit, [items, items[::-1]] * 2):
            assert statuses <= {200, 201}
    assert len(client.get("/v1/facts", params={"status": "pending"}).json()["data"]) == 7
