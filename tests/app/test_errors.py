"""Every error is a problem (RFC 9457), whatever raised it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from starlette.responses import Response

from app.config import Settings
from app.deps import SessionDep, after_commit
from app.errors import Unavailable
from app.main import MAX_BODY, create_app
from app.models import Fact
from app.routes.facts import MAX_BATCH_BODY

JSON = {"Content-Type": "application/json"}
OPEN = {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/oauth2-redirect"}


def check(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == "about:blank"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == response.request.url.path
    assert body["request_id"] == response.headers["x-request-id"]
    return body


def test_unknown_routes_and_methods(client: TestClient) -> None:
    check(client.get("/v1/nothing"), 404)
    check(client.get("/nothing"), 404)
    check(client.post("/v1/facts/", json={"text": "a"}), 404)
    assert "POST" in check_allow(client.put("/v1/facts"))


def check_allow(response: Any) -> str:
    check(response, 405)
    return str(response.headers["allow"])


def test_bodies_that_are_no_json(client: TestClient) -> None:
    for content, words in (
        (b'{"text": "a"', "JSON"),
        (b"{'text': 'a'}", "JSON"),
        (b'{"text": "\xff\xfe\xfa"}', "UTF-8"),
        (b"\x80", "UTF-8"),
    ):
        assert (
            words in check(client.post("/v1/facts", content=content, headers=JSON), 422)["detail"]
        )
    check(client.post("/v1/facts"), 422)
    check(
        client.post("/v1/facts", content=b'{"text": "a"}', headers={"Content-Type": "text/plain"}),
        422,
    )


def test_nothing_sent_comes_back_in_an_error(client: TestClient) -> None:
    response = client.post("/v1/facts", json={"text": ["hush hush"], "key": 5})
    assert [error["pointer"] for error in check(response, 422)["errors"]] == ["/text", "/key"]
    assert "hush" not in response.text
    many = {f"unknown{number}" * 100: 1 for number in range(100)}
    assert len(client.post("/v1/facts", json={"text": "a", **many}).content) < 20_000


@pytest.mark.parametrize(
    ("path", "limit"), [("/v1/facts", MAX_BODY), ("/v1/facts/batch", MAX_BATCH_BODY)]
)
def test_large_bodies_are_cut_off(client: TestClient, path: str, limit: int) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(limit // 65536):
            yield b"x" * 65536
        yield b'"}'

    check(client.post(path, content=chunks(), headers=JSON), 413)
    check(client.post(path, content=b"x" * (limit + 1), headers=JSON), 413)
    within = b'{"text": "' + b"x" * (limit - 20) + b'"}'
    check(client.post(path, content=within, headers=JSON), 422)


def test_large_bodies_without_a_key(anonymous: TestClient) -> None:
    check(anonymous.post("/v1/facts", content=b"x" * (MAX_BODY + 1), headers=JSON), 413)


def test_request_ids_are_taken_or_made(client: TestClient) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "a.b-c_1"}).headers["x-request-id"] == (
        "a.b-c_1"
    )
    made = [client.get("/healthz").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    for bad in ("", "a b", "x" * 65, "<script>"):
        assert client.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"] != bad
    sent = {"X-Request-ID": "from-the-caller"}
    fact = client.post("/v1/facts", json={"text": "One."}, headers=sent).json()
    act = client.get("/v1/audit", params={"subject": fact["id"]}).json()["data"][0]
    assert act["request_id"] == "from-the-caller"


def test_openai_routes_also_speak_openai(anonymous: TestClient) -> None:
    error = check(anonymous.post("/v1/chat/completions", json={}), 401)["error"]
    assert error["type"] == "authentication_error"
    assert error["code"] == "unauthorized"
    assert error["param"] is None
    assert error["message"]
    assert "error" not in check(anonymous.get("/v1/facts"), 401)


def test_an_unexpected_error_tells_nothing(app: FastAPI, client: TestClient) -> None:
    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("postgresql://user:hunter2@db/almanac")

    response = client.get("/broken")
    assert check(response, 500)["title"] == "Internal error"
    assert "hunter2" not in response.text
    assert "Traceback" not in response.text


def test_a_failed_commit_is_told_before_any_success(app: FastAPI, client: TestClient) -> None:
    told: list[str] = []

    @app.post("/breaks-at-commit")
    def write(session: SessionDep) -> dict[str, str]:
        after_commit(session, lambda: told.append("poked"))
        # Refers to a fact that doesn't exist: refused when the transaction ends.
        session.add(Fact(text="a", text_digest="b", status="pending", superseded_by="nobody"))
        return {"status": "stored"}

    check(client.post("/breaks-at-commit"), 500)
    assert told == []
    assert client.get("/v1/facts").json()["data"] == []


def test_what_waits_for_the_commit_runs_after_it(app: FastAPI, client: TestClient) -> None:
    seen: list[int] = []

    @app.post("/writes")
    def write(session: SessionDep) -> dict[str, str]:
        def look() -> None:
            with app.state.database.reading() as other:
                seen.append(other.query(Fact).count())

        session.add(Fact(text="a", text_digest="b", status="pending"))
        after_commit(session, look)
        return {"status": "stored"}

    assert client.post("/writes").status_code == 200
    assert seen == [1]


def test_try_again_later_says_when(app: FastAPI, client: TestClient) -> None:
    @app.get("/busy")
    def busy() -> Response:
        raise Unavailable("The queue is full.")

    response = client.get("/busy")
    assert check(response, 503)["detail"] == "The queue is full."
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("url", ["postgresql://root@127.0.0.1:9/none", "sqlite:////nowhere/a.db"])
def test_without_its_database_it_says_so(url: str, tmp_path: Path) -> None:
    settings = Settings(database_url=url, data_dir=tmp_path, _env_file=None)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer alm_{'0' * 24}_{'0' * 64}"
        response = client.get("/v1/facts")
        assert check(response, 503)["title"] == "Unavailable"
        assert response.headers["retry-after"] == "1"
        assert "127.0.0.1" not in response.text
        assert "nowhere" not in response.text
        assert client.get("/healthz").status_code == 200
        assert client.get("/metrics").status_code == 200


def test_values_that_the_database_refuses(client: TestClient) -> None:
    for response in (client.delete("/v1/keys/%00"), client.get("/v1/facts/%00")):
        assert check(response, response.status_code)["status"] in (404, 422)


def test_default_deny(app: FastAPI, anonymous: TestClient, make_secret: Callable[..., str]) -> None:
    """Every route wants a key with the right scope, but for those that say nothing of facts."""
    headers = {"Authorization": f"Bearer {make_secret()}"}
    walked = 0
    for route in iter_route_contexts(app.routes):
        path, methods = str(route.path), route.methods or set()
        if path in OPEN:
            continue
        url = path.replace("{version}", "1").replace("{", "").replace("}", "")
        for method in methods:
            missing = anonymous.request(method, url)
            check(missing, 401)
            assert missing.headers["www-authenticate"].startswith("Bearer")
            check(anonymous.request(method, url, headers=headers), 403)
            walked += 1
    assert walked >= 28
