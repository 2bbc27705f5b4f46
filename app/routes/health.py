"""Liveness, readiness and metrics: unversioned, without a key."""

from contextlib import suppress
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from app.db import Database
from app.deps import DatabaseDep, EngineDep, SettingsDep
from app.errors import Unavailable
from app.middleware import Metrics
from app.schemas.health import Check, Readiness
from app.services import activations, health

router = APIRouter(tags=["health"])
TICKS_MISSED = 15


async def get_metrics(request: Request) -> Metrics:
    """Return what this process counts."""
    return cast(Metrics, request.app.state.metrics)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process is up."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Can't answer now"}})
def readyz(
    response: Response, database: DatabaseDep, engine: EngineDep, settings: SettingsDep
) -> Readiness:
    """Say whether questions can be answered and facts learned, and what stands in the way."""
    checks = _check_database(database, worker_within_s=settings.tick_s * TICKS_MISSED)
    up = engine.health()
    checks["engine"] = Check(ok=up, detail="up" if up else "doesn't answer")
    if not (checks["database"].ok and up):
        response.status_code = 503
        response.headers["Retry-After"] = str(Unavailable.retry_after_s)
        return Readiness(status="unavailable", checks=checks)
    status = "ready" if checks["worker"].ok else "degraded"
    return Readiness(status=status, checks=checks)


def _check_database(database: Database, worker_within_s: float) -> dict[str, Check]:
    try:
        with database.reading() as session:
            age = health.worker_age_s(session)
    except SQLAlchemyError:
        unknown = Check(ok=False, detail="unknown without the database")
        return {"database": Check(ok=False, detail="can't be read"), "worker": unknown}
    seen = "never seen" if age is None else f"last seen {age:.0f} s ago"
    worker = Check(ok=age is not None and age <= worker_within_s, detail=seen)
    return {"database": Check(ok=True, detail="up"), "worker": worker}


@router.get("/metrics", response_class=Response)
def metrics(database: DatabaseDep, counted: Annotated[Metrics, Depends(get_metrics)]) -> Response:
    """Give Prometheus what this process counted, facts by stored status, the current version."""
    # A scrape must still show the requests when the database is what is broken.
    with suppress(SQLAlchemyError), database.reading() as session:
        current = activations.current(session)
        counted.show(health.count_facts(session), current.version if current else None)
    return Response(generate_latest(counted.registry), media_type=CONTENT_TYPE_LATEST)
