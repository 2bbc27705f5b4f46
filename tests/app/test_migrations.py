from alembic import command
from sqlalchemy import inspect

from app.db import Database
from app.migrate import configure


def test_migrations_produce_the_models(database_url: str) -> None:
    command.check(configure(database_url))


def test_downgrade_leaves_nothing(database_url: str) -> None:
    command.downgrade(configure(database_url), "base")
    database = Database(database_url)
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    database.close()
