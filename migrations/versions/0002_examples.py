"""examples: what a fact's text answers, where it is a response

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("facts", sa.Column("prompt", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("facts", "prompt")
