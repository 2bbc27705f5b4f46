"""Work that nobody waits for any more is given up: the client hung up."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from app.errors import DomainError

T = TypeVar("T")


class HungUp(DomainError):
    """The client is gone; nobody reads this."""

    status = 499
    title = "Client closed request"


@asynccontextmanager
async def until_gone(
    request: Request, work: Coroutine[Any, Any, T]
) -> AsyncGenerator[asyncio.Task[T]]:
    """Run work as a task, beside the block, until its end or the client's; then `HungUp`.

    The request's body must have been read.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_hang_up(request))
    gone.add_done_callback(lambda _: task.cancel())
    try:
        yield task
    except asyncio.CancelledError:
        if not gone.done():
            raise
        raise HungUp from None
    finally:
        task.cancel()
        gone.cancel()


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
