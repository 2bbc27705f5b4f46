"""Readiness on the wire."""

from typing import Literal

from pydantic import Field

from app.schemas.common import Output


class Check(Output):
    """One thing that the service leans on."""

    ok: bool
    detail: str


class Readiness(Output):
    """`degraded`: it answers, but nothing is being learned."""

    status: Literal["ready", "degraded", "unavailable"]
    checks: dict[str, Check] = Field(description="database, engine, worker")
