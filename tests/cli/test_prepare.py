"""Preparing a deployment: once, again, and after being stopped in the middle."""

import stat
from pathlib import Path

import pytest
from sqlalchemy import func, select

from app.cli.console import Stop
from app.cli.prepare import lock, prepare
from app.config import Settings
from app.db import Database
from app.errors import Conflict, Unauthorized
from app.models import Activation, Checkpoint, Key
from app.services import keys
from tests.lm.models import make_tiny_model


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint store that all tests share, so that the base is converted once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture
def settings(tmp_path: Path, database_url: str, store: Path, base: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data", database_url=database_url, store_dir=store, base_model=str(base)
    )


def run(settings: Settings) -> None:
    with lock(settings):
        prepare(settings)


def scopes_of(settings: Settings) -> frozenset[str]:
    secret = (settings.data_dir / "admin.key").read_text().strip()
    database = Database(settings.database)
    try:
        with database.reading() as session:
            return keys.authenticate(session, secret).scopes
    finally:
        database.close()


def count(settings: Settings, model: type) -> int:
    database = Database(settings.database)
    try:
        with database.reading() as session:
            return session.scalar(select(func.count()).select_from(model)) or 0
    finally:
        database.close()


def test_a_second_run_changes_nothing(settings: Settings) -> None:
    run(settings)
    secret = (settings.data_dir / "admin.key").read_text()
    run(settings)
    assert (settings.data_dir / "admin.key").read_text() == secret
    assert [count(settings, model) for model in (Checkpoint, Activation, Key)] == [1, 1, 1]
    assert scopes_of(settings) == {"admin"}


def test_only_the_owner_can_read(settings: Settings) -> None:
    run(settings)
    modes = [
        stat.S_IMODE(path.stat().st_mode)
        for path in (settings.data_dir, settings.data_dir / "admin.key")
    ]
    assert modes == [0o700, 0o600]


def test_a_key_whose_row_was_never_committed_is_replaced(settings: Settings) -> None:
    settings.data_dir.mkdir()
    (settings.data_dir / "admin.key").write_text("alm_" + "0" * 24 + "_" + "0" * 64)
    with pytest.raises(Unauthorized):
        scopes_of(settings)
    run(settings)
    assert scopes_of(settings) == {"admin"}


def test_a_key_that_cannot_be_written_is_never_committed(settings: Settings) -> None:
    settings.data_dir.mkdir()
    blocker = settings.data_dir / "admin.draft"
    blocker.mkdir()
    with pytest.raises(IsADirectoryError):
        run(settings)
    assert count(settings, Key) == 0
    blocker.rmdir()
    run(settings)
    assert scopes_of(settings) == {"admin"}


def test_a_key_that_was_moved_away_stays_away(settings: Settings) -> None:
    run(settings)
    (settings.data_dir / "admin.key").unlink()
    run(settings)
    assert not (settings.data_dir / "admin.key").exists()
    assert count(settings, Key) == 1


def test_another_base_model_is_refused(settings: Settings, tmp_path: Path) -> None:
    run(settings)
    other = make_tiny_model(tmp_path / "other", "llama", seed=1)
    with pytest.raises(Conflict, match="fresh data directory"):
        run(settings.model_copy(update={"base_model": str(other)}))


def test_a_deployment_keeps_the_base_it_began_with(
    settings: Settings, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever starter another release ships, or how it converts a model of the hub."""
    own = settings.model_copy(update={"base_model": "starter"})
    run(own)
    asked: list[str] = []
    monkeypatch.setattr("app.cli.prepare.import_base", lambda given: asked.append(given.base_model))
    run(own)
    assert asked == []
    for other in (str(base), "org/model"):
        with pytest.raises(TypeError):  # what would be registered
            run(own.model_copy(update={"base_model": other, "base_revision": "0" * 40}))
    assert asked == [str(base), "org/model"]


def test_a_missing_base_model_is_a_sentence(settings: Settings) -> None:
    with pytest.raises(Stop, match="The base model no-such-model can't be imported"):
        run(settings.model_copy(update={"base_model": "no-such-model"}))


def test_a_data_directory_has_one_owner(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    with lock(settings), pytest.raises(Stop, match="Another `almanac`"), lock(settings):
        pass
    with lock(settings):
        pass


def test_a_file_is_no_data_directory(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with (
        pytest.raises(Stop, match="can't be used: File exists"),
        lock(Settings(data_dir=tmp_path / "data")),
    ):
        pass
