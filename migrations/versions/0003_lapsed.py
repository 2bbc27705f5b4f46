"""lapsed: a status for facts that a later version doesn't answer any more

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LIVE = "'quarantined', 'pending', 'training', 'trained', 'failed'"
WAITING = "'pending', 'training', 'failed'"


LOST = sa.text("origin IN ('given', 'cloze', 'model') AND NOT passed")


def upgrade() -> None:
    op.create_index(
        "ix_proofs_lost",
        "proofs",
        ["fact_id", "version"],
        sqlite_where=LOST,
        postgresql_where=LOST,
    )
    _index(f"{LIVE}, 'lapsed'", f"{WAITING}, 'lapsed'")


def downgrade() -> None:
    op.drop_index("ix_proofs_lost", table_name="proofs")
    op.execute("UPDATE facts SET status = 'pending' WHERE status = 'lapsed'")
    _index(LIVE, WAITING)


def _index(live: str, waiting: str) -> None:
    """Make the partial indexes anew, for these statuses."""
    where = sa.text(f"status IN ({live})")
    op.drop_index("uq_facts_live_digest", table_name="facts")
    op.create_index(
        "uq_facts_live_digest",
        "facts",
        ["text_digest"],
        unique=True,
        sqlite_where=where,
        postgresql_where=where,
    )
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP INDEX ix_facts_waiting_text")
        op.execute(
            "CREATE INDEX ix_facts_waiting_text ON facts USING gin (fact_words(text)) "
            f"WITH (gin_pending_list_limit = 256) WHERE status IN ({waiting})"
        )
