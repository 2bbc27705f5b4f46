"""A backup, taken while the service runs, makes an empty machine answer the same."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app import backup
from app.config import Settings
from app.db import Database
from app.errors import CheckpointCorrupt, Conflict, DomainError, Invalid
from app.lm import store
from app.main import create_app
from app.services import checkpoints, keys
from app.services.audit import SYSTEM
from tests.lifecycle.conftest import make_checkpoint

FACT = {"text": "The gate is blue.", "key": "gate", "metadata": {"said": "été"}}


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """A service with a base model of a few bytes, one fact, and its key in `secret`."""
    settings = Settings(database_url=database_url, data_dir=tmp_path / "data", _env_file=None)
    digest = make_checkpoint(settings.store)
    database = Database(database_url)
    with database.transaction() as session:
        checkpoints.register_base(session, digest, parameters=1000)
        secret = keys.create(session, SYSTEM, "test", ["admin"])[1]
    database.close()
    (tmp_path / "secret").write_text(secret)
    with client_of(settings, secret) as client:
        assert client.post("/v1/facts", json=FACT).status_code == 201
    return settings


@pytest.fixture
def empty(new_url: Callable[[], str], tmp_path: Path) -> Settings:
    """Settings of another machine on which nothing is yet."""
    return Settings(database_url=new_url(), data_dir=tmp_path / "other", _env_file=None)


def client_of(settings: Settings, secret: str) -> TestClient:
    return TestClient(create_app(settings), headers={"Authorization": f"Bearer {secret}"})


def test_the_restored_service_answers_the_same(
    settings: Settings, empty: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "backup.tar"
    assert backup.create(settings, file) == 1
    assert backup.restore(empty, file) == 1
    secret = (tmp_path / "secret").read_text()
    paths = ("facts", "checkpoints", "activations", "audit?limit=100")
    with client_of(settings, secret) as before, client_of(empty, secret) as after:
        for path in paths:
            known = before.get(f"/v1/{path}")
            assert known.status_code == 200
            assert after.get(f"/v1/{path}").json() == known.json()
        found = after.post("/v1/facts/search", json={"query": "blue gate"}).json()["data"]
        assert [fact["text"] for fact in found] == [FACT["text"]]
        assert after.post("/v1/facts", json={"text": "New."}).status_code == 201
        digest = after.get("/v1/checkpoints/0").json()["digest"]
    store.verify(empty.store, digest)
    for target, word in ((empty, "isn't empty"), (settings, "isn't empty")):
        with pytest.raises(Conflict, match=word):
            backup.restore(target, file)
    with pytest.raises(Conflict, match="never overwrites"):
        backup.create(settings, file)


def test_only_the_owner_may_read_a_backup(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "backup.tar.part").touch(0o644)  # an older release was killed
    backup.create(settings, tmp_path / "backup.tar")
    assert (tmp_path / "backup.tar").stat().st_mode & 0o777 == 0o600


def test_a_used_database_is_refused(settings: Settings, tmp_path: Path) -> None:
    backup.create(settings, tmp_path / "backup.tar")
    url = settings.database_url
    elsewhere = Settings(database_url=url, data_dir=tmp_path / "fresh", _env_file=None)
    with pytest.raises(Conflict, match=r"The database .* (isn't empty|exists already)"):
        backup.restore(elsewhere, tmp_path / "backup.tar")


def test_what_is_corrupt_is_neither_packed_nor_restored(
    settings: Settings, empty: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "backup.tar"
    backup.create(settings, file)
    raw = file.read_bytes()
    cases: dict[str, bytes] = {
        "weights": raw.replace(b"weights", b"wEights"),
        "short": raw[: len(raw) // 2],
        "empty": b"",
        "no tar": b"x" * 2000,
        "foreign": foreign(),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        folder = tmp_path / f"data {name}"
        fresh = Settings(database_url=empty.database_url, data_dir=folder, _env_file=None)
        with pytest.raises((Invalid, CheckpointCorrupt)):
            backup.restore(fresh, tmp_path / name)
    with client_of(empty, "x") as client:
        assert client.get("/v1/facts").status_code in (401, 500, 503)  # no table was made
    (weights,) = settings.store.glob("objects/*/model.safetensors")
    weights.chmod(0o644)
    weights.write_bytes(b"wEights")
    with pytest.raises(CheckpointCorrupt, match=r"model\.safetensors"):
        backup.create(settings, tmp_path / "second.tar")
    assert not list(tmp_path.glob("second*")), "half a backup is none"
    weights.unlink()
    with pytest.raises(DomainError, match=r"model\.safetensors"):
        backup.create(settings, tmp_path / "second.tar")
    assert not (tmp_path / "second.tar").exists()


def foreign() -> bytes:
    """A tar whose only file would lie outside the folder."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        member = tarfile.TarInfo("../backup.json")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"{}"))
    return content.getvalue()
