"""The engine: vLLM's routes over resident checkpoints, ``python -m app.lm.server``.

Models are named by checkpoint digest alone; which one is current is the API's business.
"""

import argparse
import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import torch
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from app.errors import DomainError
from app.ids import new_id
from app.lm.engine import Engine, Limits
from app.lm.loading import pick_device
from app.lm.wire import Answer, ChatRequest, LoadRequest, error_body, usage_of
from app.protocol import HttpProtocol

log = logging.getLogger("almanac.engine")

FAILED = "The engine failed on this request."
MAX_BODY = 2**20  # bytes; a context of 100,000 tokens fits


class TooLong(DomainError):
    """The request's body is too long."""

    status = 413
    title = "Too long"


async def complete(request: Request) -> Response:
    """Answer a chat, whole or streamed."""
    asked = ChatRequest.model_validate_json(await _body(request))
    work = asyncio.create_task(_answer(request.app.state.engine, asked))
    gone = asyncio.ensure_future(request.receive())  # the body is read: all that can come
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        log.info("a client hung up")
        return Response(status_code=499)  # nobody reads it
    finally:
        work.cancel()
        gone.cancel()


async def _answer(engine: Engine, asked: ChatRequest) -> Response:
    answer = Answer(new_id("chatcmpl"), asked.model, int(time.time()))
    if asked.stream:
        events = _events(engine, asked, answer)
        first = await anext(events)  # what fails before the first token gets its own status
        return StreamingResponse(_joined(first, events), media_type="text/event-stream")
    async with engine.job(asked) as job:
        text = await job.finished()
        usage = usage_of(len(job.row.prompt), len(job.row.tokens))
        return JSONResponse(answer.whole(text, job.row.finish or "stop", usage))


async def _events(engine: Engine, asked: ChatRequest, answer: Answer) -> AsyncIterator[str]:
    """Yield the server-sent events of one answer; the first once the first token is there."""
    started = False
    try:
        async with engine.job(asked) as job:
            async for piece in job.pieces():
                if not started:
                    yield _event(answer.piece({"role": "assistant", "content": ""}))
                    started = True
                yield _event(answer.piece({"content": piece}))
            if not started:
                yield _event(answer.piece({"role": "assistant", "content": ""}))
            yield _event(answer.piece({}, job.row.finish))
            if asked.stream_options and asked.stream_options.include_usage:
                yield _event(answer.total(usage_of(len(job.row.prompt), len(job.row.tokens))))
    except Exception as error:
        if not started:
            raise
        log.exception("an answer broke off")
        detail = error.detail if isinstance(error, DomainError) else FAILED
        yield _event(error_body(detail, 500))
        return
    yield "data: [DONE]\n\n"


async def _joined(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for event in rest:
        yield event


def _event(body: dict[str, object]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


async def _body(request: Request) -> bytes:
    """Read the request's body; ``TooLong`` beyond MAX_BODY."""
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > MAX_BODY:
            raise TooLong
    return b"".join(parts)


async def models(request: Request) -> Response:
    """List the resident checkpoints."""
    engine: Engine = request.app.state.engine
    data = [
        {
            "id": digest,
            "object": "model",
            "created": resident.loaded_at,
            "owned_by": "almanac",
            "root": resident.bundle.manifest.root or digest,
            "parent": resident.bundle.manifest.root,
            "max_model_len": resident.bundle.manifest.context_length,
        }
        for digest, resident in engine.residents.list().items()
    ]
    return JSONResponse({"object": "list", "data": data})


async def load_adapter(request: Request) -> Response:
    """Load a checkpoint of either kind; loaded already is fine."""
    engine: Engine = request.app.state.engine
    asked = LoadRequest.model_validate_json(await _body(request))
    async with engine.residents.using(asked.lora_name):
        return PlainTextResponse(f"Success: checkpoint {asked.lora_name} is loaded.")


async def unload_adapter(request: Request) -> Response:
    """Let go of a checkpoint."""
    engine: Engine = request.app.state.engine
    asked = LoadRequest.model_validate_json(await _body(request))
    engine.residents.unload(asked.lora_name)
    return PlainTextResponse(f"Success: checkpoint {asked.lora_name} is unloaded.")


async def health(request: Request) -> Response:
    """Say that the engine takes requests."""
    engine: Engine = request.app.state.engine
    return Response(status_code=200 if engine.scheduler.alive else 503)


async def _refuse(_request: Request, error: Exception) -> Response:
    """Turn an error into OpenAI's form."""
    if isinstance(error, HTTPException):  # the router's: no such route, not this method
        status, body = error.status_code, error_body(error.detail, error.status_code)
        return JSONResponse(body, status)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return JSONResponse(error_body(f"{field or 'body'}: {first['msg']}", 400, field), 400)
    if isinstance(error, DomainError):
        if error.status >= 500:
            log.error("%s", error.detail)
        wait = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
        return JSONResponse(error_body(error.detail, error.status), error.status, wait)
    return JSONResponse(error_body(FAILED, 500), 500)


def make_app(limits: Limits, device: str = "cpu") -> Starlette:
    """Build the engine's ASGI app."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.engine = engine = Engine(limits, device)
        yield
        engine.scheduler.close()

    routes = [
        Route("/v1/chat/completions", complete, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/load_lora_adapter", load_adapter, methods=["POST"]),
        Route("/v1/unload_lora_adapter", unload_adapter, methods=["POST"]),
        Route("/health", health),
    ]
    handled = dict.fromkeys([DomainError, ValidationError, HTTPException, Exception], _refuse)
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handled)


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m app.lm.server", description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="checkpoint store's folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8001, help="port to listen on")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--memory-mb", type=int, default=4096, help="resident checkpoints, MiB")
    parser.add_argument("--max-batch", type=int, default=32, help="answers written together")
    parser.add_argument("--max-waiting", type=int, default=256, help="requests waiting at most")
    parser.add_argument("--deadline-s", type=float, default=60.0, help="limit for one answer")
    parser.add_argument("--default-tokens", type=int, default=256, help="of an unlimited answer")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # oneDNN keeps a kernel of every batch's shape, 1,024 of them, 100 MB; 64 are as fast.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    torch.set_num_threads(given.threads)
    limits = Limits(
        store=given.store,
        memory=given.memory_mb * 2**20,
        max_batch=given.max_batch,
        max_waiting=given.max_waiting,
        deadline_s=given.deadline_s,
        default_tokens=given.default_tokens,
    )
    app = make_app(limits, pick_device(given.device))
    with suppress(KeyboardInterrupt):
        uvicorn.run(
            app,
            host=given.host,
            port=given.port,
            http=HttpProtocol,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=10,
        )


if __name__ == "__main__":
    main()
