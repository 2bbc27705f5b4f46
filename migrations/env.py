"""Alembic's environment: the URL comes from the caller (app.migrate) or from the settings."""

from alembic import context

from app.config import Settings
from app.db import Database
from app.models import Base


def include_object(_thing: object, name: str | None, kind: str, *_: object) -> bool:
    """Leave out the full-text index, which each database has in its own way."""
    return not (
        (kind == "table" and (name or "").startswith("facts_fts"))
        or (kind == "index" and name in ("ix_facts_text", "ix_facts_waiting_text"))
    )


def run() -> None:
    """Run the migrations in one transaction per step."""
    url = context.config.attributes.get("url") or Settings().database
    database = Database(url)
    with database.engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            transaction_per_migration=True,
            include_object=include_object,
            render_as_batch=connection.dialect.name == "sqlite",
        )
        with context.begin_transaction():
            context.run_migrations()
    database.close()


run()
