"""The application: ``uvicorn app.main:create_app --factory``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI

from app import problems
from app.config import Settings
from app.db import Database
from app.deps import Callers, authenticate
from app.engine_pool import connect
from app.middleware import PREFIX, AroundRequest, Metrics
from app.routes import answers, audit, checkpoints, examples, facts, feedback, health, keys, updates
from app.services.answers import Guess

MAX_BODY = 256 * 1024
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request is at fault; the detail says how", "content": PROBLEM},
    "5XX": {"description": "The service is at fault, or can't do it now", "content": PROBLEM},
}
DESCRIPTION = """
Keeps a deployed language model's knowledge current. Post facts; they are answerable at once, and
soon after they are in the weights: trained, proven one by one, published as a new version that can
be pinned, activated and rolled back.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application; the database and the engine are opened when it starts."""
    app = FastAPI(
        title="Almanac",
        version="1",
        description=DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.settings = settings or Settings()
    app.state.metrics = Metrics()
    problems.install(app)
    app.add_middleware(AroundRequest, metrics=app.state.metrics)
    app.include_router(health.router)
    # In the order in which paths are compared: questions first, which wait the least for it.
    for module in (answers, facts, examples, updates, checkpoints, feedback, keys, audit):
        # Default deny: no route under /v1 answers without a key, whatever it asks for itself.
        app.include_router(
            module.router,
            prefix=PREFIX,
            dependencies=[Depends(authenticate)],
            responses=PROBLEMS,
            max_body_size=MAX_BODY,
        )
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    app.state.database = Database(settings.database)
    app.state.callers = Callers(app.state.database)
    app.state.engine = connect(settings)
    app.state.guess = Guess()
    yield
    await app.state.engine.aclose()
    app.state.database.close()
