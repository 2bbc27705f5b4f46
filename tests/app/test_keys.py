import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.db import Database, utc_now
from app.main import create_app
from app.models import Key
from app.services import keys
from app.services.audit import SYSTEM
from tests.app.conftest import wait_until_blocked


def test_a_key_is_made_used_and_revoked(client: TestClient, database: Database) -> None:
    made = client.post("/v1/keys", json={"name": "bot", "scopes": ["facts:read", "facts:read"]})
    assert made.status_code == 201
    key = made.json()
    secret = key.pop("secret")
    assert secret.startswith("alm_")
    assert (key["object"], key["name"], key["scopes"]) == ("key", "bot", ["facts:read"])
    theirs = {"Authorization": f"Bearer {secret}"}
    assert client.get("/v1/facts", headers=theirs).status_code == 200
    refused = client.post("/v1/facts", json={"text": "One."}, headers=theirs)
    assert refused.status_code == 403
    assert "facts:write" in refused.json()["detail"]

    with database.reading() as session:
        row = session.get_one(Key, key["id"])
        assert row.digest == hashlib.sha256(secret.encode()).hexdigest()
    listed = client.get("/v1/keys")
    assert listed.json()["data"][0] == key
    assert secret not in listed.text

    for _ in range(2):
        revoked = client.delete(f"/v1/keys/{key['id']}")
        assert revoked.status_code == 200
        assert revoked.json()["revoked_at"]
    assert client.get("/v1/facts", headers=theirs).status_code == 401
    acts = client.get("/v1/audit", params={"subject": key["id"]}).json()["data"]
    assert [act["act"] for act in acts] == ["key.revoke", "key.create"]
    assert secret not in str(acts)


def test_only_the_whole_right_secret_opens(
    anonymous: TestClient, make_secret: Callable[..., str]
) -> None:
    secret = make_secret("facts:read")
    other = make_secret("facts:read")
    bad = [
        "",
        "Bearer",
        "Bearer x",
        f"Basic {secret}",
        f"Bearer {secret[:-1]}",
        f"Bearer {secret}0",
        f"Bearer {secret.upper()}",
        f"Bearer {secret.rsplit('_', 1)[0]}_{other.rsplit('_', 1)[1]}",
        f"Bearer alm_{'0' * 24}_{'0' * 64}",
        f"Bearer {secret}, Bearer {other}",
    ]
    for value in bad:
        response = anonymous.get("/v1/facts", headers={"Authorization": value})
        assert response.status_code == 401, value
    assert anonymous.get("/v1/facts", headers={"Authorization": f"bearer {secret}"}).is_success
    assert anonymous.get("/v1/facts", params={"api_key": secret}).status_code == 401


def test_an_expired_key_opens_nothing(
    anonymous: TestClient, database: Database, make_secret: Callable[..., str]
) -> None:
    for age, status in ((-60, 200), (1, 401)):
        headers = {"Authorization": f"Bearer {make_secret('facts:read')}"}
        with database.transaction() as session:
            key = session.scalars(select(Key).order_by(Key.id.desc())).first()
            assert key is not None
            key.expires_at = utc_now() - timedelta(seconds=age)
        assert anonymous.get("/v1/facts", headers=headers).status_code == status


def test_a_revoked_key_is_soon_refused_by_other_processes(app: FastAPI, client: TestClient) -> None:
    key = client.post("/v1/keys", json={"name": "bot", "scopes": ["facts:read"]}).json()
    theirs = {"Authorization": f"Bearer {key['secret']}"}
    with TestClient(create_app(app.state.settings)) as other:
        assert other.get("/v1/facts", headers=theirs).status_code == 200
        assert client.delete(f"/v1/keys/{key['id']}").status_code == 200
        assert client.get("/v1/facts", headers=theirs).status_code == 401
        while other.get("/v1/facts", headers=theirs).status_code == 200:
            pass  # for a second at most; were it for good, this would time out
        assert other.get("/v1/facts", headers=theirs).status_code == 401


def test_the_last_admin_key_stays(
    client: TestClient, database: Database, make_secret: Callable[..., str]
) -> None:
    (own,) = (key["id"] for key in client.get("/v1/keys").json()["data"])
    for scope in ("qa", "admin", "admin"):
        make_secret(scope)
    revoked, expired, bot, _ = (key["id"] for key in client.get("/v1/keys").json()["data"])
    with database.transaction() as session:
        session.get_one(Key, expired).expires_at = utc_now() - timedelta(seconds=1)
    assert client.delete(f"/v1/keys/{revoked}").status_code == 200
    refused = client.delete(f"/v1/keys/{own}")
    assert (refused.status_code, "last valid key" in refused.json()["detail"]) == (409, True)
    for other in (bot, expired, revoked):
        assert client.delete(f"/v1/keys/{other}").status_code == 200
    made = client.post("/v1/keys", json={"name": "next", "scopes": ["admin", "qa"]})
    assert made.status_code == 201
    assert client.delete(f"/v1/keys/{own}").status_code == 200


def test_of_two_admin_keys_revoked_at_once_one_stays(
    client: TestClient, database: Database, make_secret: Callable[..., str]
) -> None:
    make_secret("admin")
    other, own = (key["id"] for key in client.get("/v1/keys").json()["data"])
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            keys.revoke(session, SYSTEM, other)
            second = pool.submit(client.delete, f"/v1/keys/{own}")
            wait_until_blocked(database, second)
        assert second.result().status_code == 409


def test_bad_keys_are_refused_by_field(client: TestClient) -> None:
    for body, pointer in (
        ({"scopes": ["qa"]}, "/name"),
        ({"name": " ", "scopes": ["qa"]}, "/name"),
        ({"name": "a", "scopes": []}, "/scopes"),
        ({"name": "a", "scopes": ["everything"]}, "/scopes/0"),
        ({"name": "a", "scopes": ["qa"], "secret": "mine"}, "/secret"),
        ({"name": "a", "scopes": ["qa"], "expires_at": "soon"}, "/expires_at"),
        ({"name": "a", "scopes": ["qa"], "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
    ):
        response = client.post("/v1/keys", json=body)
        assert response.status_code == 422, body
        assert response.json()["errors"][0]["pointer"] == pointer
    assert client.delete("/v1/keys/key_unknown").status_code == 404
    assert len(client.get("/v1/keys").json()["data"]) == 1


def test_only_administrators_manage_keys_and_read_the_trail(
    anonymous: TestClient, make_secret: Callable[..., str]
) -> None:
    scopes = ("facts:write", "facts:read", "updates:write", "updates:read", "qa")
    headers = {"Authorization": f"Bearer {make_secret(*scopes)}"}
    for method, path in (("GET", "/v1/keys"), ("POST", "/v1/keys"), ("GET", "/v1/audit")):
        assert anonymous.request(method, path, headers=headers).status_code == 403
