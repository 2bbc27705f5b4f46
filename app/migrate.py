"""Bring a database to the newest schema."""

from pathlib import Path

from alembic import command
from alembic.config import Config

MIGRATIONS = Path(__file__).parent.parent / "migrations"


def migrate(url: str, revision: str = "head") -> None:
    """Run every migration that this database lacks."""
    command.upgrade(configure(url), revision)


def configure(url: str) -> Config:
    """Build Alembic's configuration for one database URL."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    return config
