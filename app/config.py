"""Settings: the only module that reads the environment."""

from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every setting of Almanac; each is read from ``ALMANAC_<NAME>`` or from ``.env``."""

    model_config = SettingsConfigDict(
        env_prefix="ALMANAC_", env_file=".env", env_ignore_empty=True, extra="ignore"
    )

    data_dir: Path = Field(Path("data"), description="Folder for database, checkpoints, keys, logs")
    host: str = Field("127.0.0.1", description="Address that the API listens on")
    port: int = Field(8000, ge=1, le=65535, description="Port that the API listens on")
    database_url: str = Field("", description="SQLAlchemy URL; empty: SQLite in data_dir")
    broker_url: str = Field("", description="redis://… ; empty: kombu's filesystem:// in data_dir")
    store_dir: Path | None = Field(None, description="Checkpoint store; empty: data_dir/store")

    base_model: str = Field("starter", description="`starter`, a folder, or a hub model id")
    base_revision: str = Field("", description="Commit hash that pins a hub model")
    reference_file: Path | None = Field(
        None,
        description="What the model must not forget (JSONL), for replay and regression; empty: the"
        " reference.jsonl that the base model brought, as the starter does, or nothing",
    )

    engine_url: str = Field(
        "http://127.0.0.1:8001", description="Where the API finds the engine; several: with commas"
    )
    engine_host: str = Field("127.0.0.1", description="Address that our own engine listens on")
    engine_port: int = Field(
        8001, ge=1, le=65535, description="Port that our own engine listens on (same host)"
    )
    engine_kind: Literal["almanac", "vllm"] = Field(
        "almanac", description="Which engine serves: almanac or vllm"
    )
    vllm_max_lora_rank: int = Field(16, ge=1, description="vLLM's own --max-lora-rank")
    engine_timeout_s: float = Field(60.0, gt=0, description="Limit for one answer, seconds")
    engine_memory_mb: int = Field(4096, gt=0, description="Resident checkpoints' limit, MiB")
    engine_threads: int = Field(2, ge=1, description="CPU threads of the engine")
    max_batch: int = Field(32, ge=1, description="Questions that the engine answers together")
    max_tokens: int = Field(256, ge=1, le=4096, description="Most tokens of an answer")

    batch_facts: int = Field(64, ge=1, description="Waiting facts that open an update")
    batch_wait_s: float = Field(
        30.0, ge=0, description="Age of the oldest, or of a retraction, that opens one, seconds"
    )
    batch_cap: int = Field(256, ge=1, description="Most facts in one update")
    consolidate_after: int = Field(
        32, ge=1, description="Updates of one adapter after which it is merged into its root"
    )
    tick_s: float = Field(1.0, gt=0, description="The worker's look at the database, seconds")
    lease_s: float = Field(60.0, gt=0, description="An update's lease, seconds")
    heartbeat_s: float = Field(10.0, gt=0, description="The lease is renewed this often, seconds")
    stall_timeout_s: float = Field(600.0, gt=0, description="No progress for so long: killed")
    keep_activated: int = Field(5, ge=1, description="Versions activated last that are kept")
    gc_grace_s: float = Field(
        86_400.0, ge=0, description="No younger checkpoint is ever deleted, seconds"
    )
    events_keep_days: float = Field(
        30.0, ge=0, description="What finished updates reported is kept so long, days"
    )
    trainer_threads: int = Field(2, ge=1, description="CPU threads of the trainer")
    overlay_facts: int = Field(3, ge=1, le=20, description="Most facts given in context")

    @field_validator("engine_url")
    @classmethod
    def _check_urls(cls, value: str) -> str:
        urls = _split(value)
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"`{url}` is no http:// or https:// address")
        if len(set(urls)) < len(urls) or not urls:
            raise ValueError("must name each engine once")
        return value

    @property
    def engine_urls(self) -> list[str]:
        """Every engine's URL."""
        return _split(self.engine_url)

    @cached_property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'almanac.db'}"

    @cached_property
    def broker(self) -> str:
        """The broker URL in force."""
        return self.broker_url or "filesystem://"

    @cached_property
    def store(self) -> Path:
        """The checkpoint store's folder."""
        return (self.store_dir or self.data_dir / "store").absolute()


def _split(urls: str) -> list[str]:
    return [url.strip().rstrip("/") for url in urls.split(",") if url.strip()]
