"""recipes without kept_share: nothing is put back any more, and these were not protected

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

updates = sa.table("updates", sa.column("id", sa.String), sa.column("recipe", sa.JSON))


def upgrade() -> None:
    replace("kept_share", {"protection": 0.0})


def downgrade() -> None:
    replace("protection", {"kept_share": 1.0})


def replace(name: str, by: dict[str, float]) -> None:
    """Replace a field of every recipe that has it."""
    connection = op.get_bind()
    for key, recipe in connection.execute(sa.select(updates.c.id, updates.c.recipe)).all():
        if name in recipe:
            rest = {field: value for field, value in recipe.items() if field != name}
            connection.execute(
                sa.update(updates).where(updates.c.id == key).values(recipe=rest | by)
            )
