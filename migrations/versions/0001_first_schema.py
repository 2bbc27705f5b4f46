"""first schema

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("act", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=100), nullable=False),
        sa.Column("before", sa.JSON(), nullable=True),
        sa.Column("after", sa.JSON(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.create_index("ix_audit_subject", ["subject"], unique=False)

    op.create_table(
        "checkpoints",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("root", sa.Integer(), nullable=True),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("update_id", sa.String(length=40), nullable=True),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=True),
        sa.Column("protected", sa.Boolean(), nullable=False),
        sa.Column("facts_count", sa.Integer(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["parent"], ["checkpoints.version"], name=op.f("fk_checkpoints_parent_checkpoints")
        ),
        sa.ForeignKeyConstraint(
            ["root"], ["checkpoints.version"], name=op.f("fk_checkpoints_root_checkpoints")
        ),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("digest", name=op.f("uq_checkpoints_digest")),
        sa.UniqueConstraint("update_id", name=op.f("uq_checkpoints_update_id")),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_keys_digest")),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_table(
        "activations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("previous_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["version"], ["checkpoints.version"], name=op.f("fk_activations_version_checkpoints")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_activations")),
        sa.UniqueConstraint("previous_id", name=op.f("uq_activations_previous_id")),
    )
    op.create_table(
        "facts",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("text_digest", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=True),
        sa.Column("source", sa.String(length=200), nullable=True),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("superseded_by", sa.String(length=40), nullable=True),
        sa.Column("created_by", sa.String(length=40), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["keys.id"], name=op.f("fk_facts_created_by_keys")),
        sa.ForeignKeyConstraint(
            ["superseded_by"], ["facts.id"], name=op.f("fk_facts_superseded_by_facts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_facts")),
    )
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("correct", sa.Boolean(), nullable=False),
        sa.Column("correction", sa.Text(), nullable=True),
        sa.Column("fact_id", sa.String(length=40), nullable=True),
        sa.Column("created_by", sa.String(length=40), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["created_by"], ["keys.id"], name=op.f("fk_feedback_created_by_keys")
        ),
        sa.ForeignKeyConstraint(["fact_id"], ["facts.id"], name=op.f("fk_feedback_fact_id_facts")),
        sa.ForeignKeyConstraint(
            ["version"], ["checkpoints.version"], name=op.f("fk_feedback_version_checkpoints")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
    )
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.create_index("ix_feedback_version", ["version", "id"], unique=False)

    with op.batch_alter_table("facts", schema=None) as batch_op:
        batch_op.create_index("ix_facts_key_id", ["key", "id"], unique=False)
        batch_op.create_index("ix_facts_source_id", ["source", "id"], unique=False)
        batch_op.create_index("ix_facts_status_id", ["status", "id"], unique=False)
        batch_op.create_index(
            "uq_facts_live_digest",
            ["text_digest"],
            unique=True,
            sqlite_where=sa.text(
                "status IN ('quarantined', 'pending', 'training', 'trained', 'failed')"
            ),
            postgresql_where=sa.text(
                "status IN ('quarantined', 'pending', 'training', 'trained', 'failed')"
            ),
        )

    op.create_table(
        "idempotency",
        sa.Column("owner", sa.String(length=40), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["owner"], ["keys.id"], name=op.f("fk_idempotency_owner_keys")),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_idempotency")),
    )
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.create_index("ix_idempotency_created", ["created_at"], unique=False)

    op.create_table(
        "updates",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("phase", sa.String(length=12), nullable=True),
        sa.Column("outcome", sa.String(length=12), nullable=True),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("activation", sa.String(length=8), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("replaces", sa.Integer(), nullable=True),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=100), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("created_by", sa.String(length=40), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["created_by"], ["keys.id"], name=op.f("fk_updates_created_by_keys")
        ),
        sa.ForeignKeyConstraint(
            ["parent"], ["checkpoints.version"], name=op.f("fk_updates_parent_checkpoints")
        ),
        sa.ForeignKeyConstraint(
            ["replaces"], ["checkpoints.version"], name=op.f("fk_updates_replaces_checkpoints")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_updates")),
    )
    with op.batch_alter_table("updates", schema=None) as batch_op:
        batch_op.create_index("ix_updates_status_id", ["status", "id"], unique=False)
        batch_op.create_index(
            "uq_updates_running",
            ["status"],
            unique=True,
            sqlite_where=sa.text("status = 'running'"),
            postgresql_where=sa.text("status = 'running'"),
        )

    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("update_id", sa.String(length=40), nullable=False),
        sa.Column("type", sa.String(length=20), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["update_id"], ["updates.id"], name=op.f("fk_events_update_id_updates")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("ix_events_update", ["update_id", "id"], unique=False)

    op.create_table(
        "probes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fact_id", sa.String(length=40), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("answers", sa.JSON(), nullable=False),
        sa.Column("direction", sa.String(length=8), nullable=False),
        sa.Column("origin", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(["fact_id"], ["facts.id"], name=op.f("fk_probes_fact_id_facts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_probes")),
    )
    with op.batch_alter_table("probes", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_probes_fact_id"), ["fact_id"], unique=False)

    op.create_table(
        "proofs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fact_id", sa.String(length=40), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("answers", sa.JSON(), nullable=False),
        sa.Column("direction", sa.String(length=8), nullable=False),
        sa.Column("origin", sa.String(length=8), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("exact", sa.Boolean(), nullable=False),
        sa.Column("contains", sa.Boolean(), nullable=False),
        sa.Column("rouge1", sa.Double(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["fact_id"], ["facts.id"], name=op.f("fk_proofs_fact_id_facts")),
        sa.ForeignKeyConstraint(
            ["version"], ["checkpoints.version"], name=op.f("fk_proofs_version_checkpoints")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_proofs")),
    )
    with op.batch_alter_table("proofs", schema=None) as batch_op:
        batch_op.create_index("ix_proofs_fact", ["fact_id", "version"], unique=False)
        batch_op.create_index("ix_proofs_version", ["version"], unique=False)
        batch_op.create_index(
            "ix_proofs_failed_control",
            ["fact_id"],
            unique=False,
            sqlite_where=sa.text("origin = 'control' AND NOT passed"),
            postgresql_where=sa.text("origin = 'control' AND NOT passed"),
        )

    op.create_table(
        "update_facts",
        sa.Column("update_id", sa.String(length=40), nullable=False),
        sa.Column("fact_id", sa.String(length=40), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("proven", sa.Boolean(), nullable=True),
        sa.ForeignKeyConstraint(
            ["fact_id"], ["facts.id"], name=op.f("fk_update_facts_fact_id_facts")
        ),
        sa.ForeignKeyConstraint(
            ["update_id"], ["updates.id"], name=op.f("fk_update_facts_update_id_updates")
        ),
        sa.PrimaryKeyConstraint("update_id", "fact_id", name=op.f("pk_update_facts")),
    )
    with op.batch_alter_table("update_facts", schema=None) as batch_op:
        batch_op.create_index("ix_update_facts_fact", ["fact_id"], unique=False)
        batch_op.create_index(
            "uq_update_facts_active",
            ["fact_id"],
            unique=True,
            sqlite_where=sa.text("active"),
            postgresql_where=sa.text("active"),
        )

    _create_full_text_index()


def _create_full_text_index() -> None:
    if op.get_bind().dialect.name == "postgresql":
        # Words as FTS5 below sees them: Latin letters without accents, parted at punctuation.
        # The cost says: look words up, whatever else there is to go by. The planner can't know how
        # rare a word is, and would read a million facts for the one that has it. It needs plpgsql,
        # since a function in SQL is inlined and its cost lost.
        op.execute(
            "CREATE FUNCTION fact_words(words text) RETURNS tsvector "
            "LANGUAGE plpgsql IMMUTABLE STRICT COST 3000 AS $$ BEGIN RETURN "
            "to_tsvector('simple', regexp_replace(normalize(regexp_replace("
            "normalize(words, NFD), '([A-Za-z])[\\u0300-\\u036f]+', '\\1', 'g'), NFC), "
            "'[!-/:-@[-`{-~\\u2000-\\u206f]', ' ', 'g')); END $$"
        )
        # Each look-up also reads what was added lately and isn't sorted in: 4 MB unless limited.
        limited = "WITH (gin_pending_list_limit = 256)"
        op.execute(f"CREATE INDEX ix_facts_text ON facts USING gin (fact_words(text)) {limited}")
        # Questions look for facts that wait, among however many that are learned.
        op.execute(
            f"CREATE INDEX ix_facts_waiting_text ON facts USING gin (fact_words(text)) {limited} "
            "WHERE status IN ('pending', 'training', 'failed')"
        )
        return
    # Beginnings of words have an index of their own, else all that has one is read and sorted.
    op.execute(
        "CREATE VIRTUAL TABLE facts_fts USING fts5(fact_id UNINDEXED, text, "
        "tokenize = 'unicode61 remove_diacritics 2', prefix = '4 5 6 7')"
    )
    op.execute(
        "CREATE TRIGGER facts_fts_insert AFTER INSERT ON facts BEGIN "
        "INSERT INTO facts_fts (fact_id, text) VALUES (new.id, new.text); END"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE facts_fts")
    with op.batch_alter_table("update_facts", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_update_facts_active",
            sqlite_where=sa.text("active"),
            postgresql_where=sa.text("active"),
        )
        batch_op.drop_index("ix_update_facts_fact")

    op.drop_table("update_facts")
    with op.batch_alter_table("proofs", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_proofs_failed_control",
            sqlite_where=sa.text("origin = 'control' AND NOT passed"),
            postgresql_where=sa.text("origin = 'control' AND NOT passed"),
        )
        batch_op.drop_index("ix_proofs_version")
        batch_op.drop_index("ix_proofs_fact")

    op.drop_table("proofs")
    with op.batch_alter_table("probes", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_probes_fact_id"))

    op.drop_table("probes")
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index("ix_events_update")

    op.drop_table("events")
    with op.batch_alter_table("updates", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_updates_running",
            sqlite_where=sa.text("status = 'running'"),
            postgresql_where=sa.text("status = 'running'"),
        )
        batch_op.drop_index("ix_updates_status_id")

    op.drop_table("updates")
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.drop_index("ix_idempotency_created")

    op.drop_table("idempotency")
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.drop_index("ix_feedback_version")

    op.drop_table("feedback")
    with op.batch_alter_table("facts", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_facts_live_digest",
            sqlite_where=sa.text(
                "status IN ('quarantined', 'pending', 'training', 'trained', 'failed')"
            ),
            postgresql_where=sa.text(
                "status IN ('quarantined', 'pending', 'training', 'trained', 'failed')"
            ),
        )
        batch_op.drop_index("ix_facts_status_id")
        batch_op.drop_index("ix_facts_source_id")
        batch_op.drop_index("ix_facts_key_id")

    op.drop_table("facts")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION fact_words")
    op.drop_table("activations")
    op.drop_table("workers")
    op.drop_table("keys")
    op.drop_table("checkpoints")
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.drop_index("ix_audit_subject")

    op.drop_table("audit")
