from alembic import command
from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from app.db import Database
from app.migrate import configure
from app.models.updates import Update
from app.recipe import Recipe


def test_migrations_produce_the_models(database_url: str) -> None:
    command.check(configure(database_url))


def test_downgrade_leaves_nothing(database_url: str) -> None:
    command.downgrade(configure(database_url), "base")
    database = Database(database_url)
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    database.close()


def test_recipes_of_earlier_updates_can_be_read_still(database_url: str) -> None:
    command.downgrade(configure(database_url), "0004")
    database = Database(database_url)
    stored = {**Recipe(lr=8e-4).model_dump(exclude={"protection"}), "kept_share": 0.3}
    with Session(database.engine) as session, session.begin():
        session.add(Update(kind="learn", status="succeeded", recipe=stored))
    command.upgrade(configure(database_url), "head")
    with Session(database.engine) as session:
        (update,) = session.scalars(select(Update)).all()
        assert Recipe.model_validate(update.recipe) == Recipe(lr=8e-4, protection=0.0)
    database.close()
