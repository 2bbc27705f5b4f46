"""Questions: ours, and OpenAI's chat completions over the same versions and overlay."""

import asyncio
import re
import time
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from app.config import Settings
from app.db import Database, Reader
from app.deps import DatabaseDep, EngineDep, ReaderDep, SettingsDep, needs
from app.engine_answers import Completion
from app.engine_pool import EnginePool
from app.errors import Invalid, NotFound
from app.hangup import until_gone
from app.ids import new_id
from app.models import Checkpoint
from app.openai_stream import events_of, usage_of
from app.prompts import ask
from app.schemas.answers import (
    AnswerOut,
    ChatIn,
    ChatOut,
    Choice,
    ChoiceMessage,
    ModelOut,
    QuestionIn,
    SupportOut,
)
from app.schemas.common import ListOf
from app.services import answers, attribution, checkpoints, vllm
from app.services.answers import Bound, Guess, Support
from app.services.attribution import Learned
from app.services.checkpoints import Resolved

CURRENT = "current"
_PINNED = re.compile(r"v(0|[1-9][0-9]{0,8})")
router = APIRouter(tags=["answers"], dependencies=[Depends(needs("qa"))])


@router.post("/qa", response_model=AnswerOut)
async def answer_question(
    body: QuestionIn,
    request: Request,
    database: DatabaseDep,
    engine: EngineDep,
    settings: SettingsDep,
) -> Response:
    """Answer a question and say which version did, from its weights or from waiting facts."""
    started = time.perf_counter()
    _check_limit(settings, "max_tokens", body.max_tokens)
    # vLLM reads no question before it has been looked through for special tokens.
    guesses = body.version is None and settings.engine_kind == "almanac"
    guess = request.app.state.guess if guesses else Guess()
    work = _bind_and_complete(database, engine, settings, body, guess)
    async with until_gone(request, work) as answered:
        bound, found, proposing = await answered
    answer = found.text.strip()
    facts = bound.facts
    if not facts and (proposed := await proposing) is not None:
        facts = attribution.choose(body.question, answer, proposed)
    elif not facts:
        facts = await run_in_threadpool(_support, database, bound, body.question, answer)
    told = AnswerOut(
        id=new_id("answer"),
        answer=answer,
        version=bound.version,
        checkpoint=bound.digest,
        source="overlay" if bound.facts else "weights",
        facts=[SupportOut.model_validate(fact) for fact in facts],
        latency_ms=round((time.perf_counter() - started) * 1000),
    )
    headers = {"X-Model-Version": str(bound.version)}
    return Response(told.model_dump_json(), headers=headers, media_type="application/json")


@router.post(
    "/chat/completions",
    response_model=ChatOut,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Whole or streamed"}},
)
async def complete_chat(
    body: ChatIn,
    request: Request,
    database: DatabaseDep,
    engine: EngineDep,
    settings: SettingsDep,
) -> Response:
    """Answer like OpenAI's route: `current` with the overlay, `v7` from that version's weights."""
    _check_limit(settings, "max_tokens", body.max_tokens)
    _check_limit(settings, "max_completion_tokens", body.max_completion_tokens)
    chat = [message.message() for message in body.messages]
    version = _version_of(body.model)
    asks = version is None and chat[-1]["role"] == "user"
    max_facts = settings.overlay_facts if asks else 0
    texts = {f"/messages/{n}/content": turn["content"] for n, turn in enumerate(chat)}
    bound = await run_in_threadpool(_bind_chat, database, settings, texts, version, max_facts)
    asked = (engine, bound, chat, body.max_completion_tokens or body.max_tokens, body.temperature)
    head = {"id": new_id("chatcmpl"), "created": int(time.time()), **_name(bound)}
    headers = {"X-Model-Version": str(bound.version)}
    if body.stream:
        async with until_gone(request, answers.stream(*asked)) as begun:
            _, deltas = await begun
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = events_of(head, deltas, with_usage=usage)
        return StreamingResponse(events, headers=headers, media_type="text/event-stream")
    async with until_gone(request, answers.complete(*asked)) as answered:
        _, found = await answered
    message = ChoiceMessage(content=found.text)
    choice = Choice(message=message, finish_reason=found.finish_reason)
    whole = ChatOut(**head, choices=[choice], usage=usage_of(found.usage))
    return Response(whole.model_dump_json(), headers=headers, media_type="application/json")


@router.get("/models")
def list_models(session: ReaderDep) -> ListOf[ModelOut]:
    """List `current` and every version that can be pinned, newest first."""
    ready = [_model(f"v{row.version}", row) for row in checkpoints.list_ready(session)]
    return ListOf(data=[_model(CURRENT, checkpoints.resolve(session, None)), *ready])


@router.get("/models/{model}")
def get_model(model: Annotated[str, Path(max_length=40)], session: ReaderDep) -> ModelOut:
    """Read one model's name."""
    return _model(model, checkpoints.resolve(session, _version_of(model)))


async def _bind_and_complete(
    database: Database, engine: EnginePool, settings: Settings, body: QuestionIn, guess: Guess
) -> tuple[Bound, Completion, asyncio.Future[list[Learned] | None]]:
    """Answer a question; return its binding and what `_prepare` looks up meanwhile, too."""
    wanted = body.version is None if body.overlay is None else body.overlay
    max_facts = settings.overlay_facts if wanted else 0
    async with guess.completing(engine, ask(body.question), body.max_tokens) as completing:
        bound, proposing = await _prepare(
            database, settings, body.question, body.version, max_facts
        )
        return *(await completing(bound)), proposing


async def _prepare(
    database: Database, settings: Settings, question: str, version: int | None, max_facts: int
) -> tuple[Bound, asyncio.Future[list[Learned] | None]]:
    """Bind a question; return while what may support its answer is looked up, None: not known yet.

    Both in one go of one thread: a second go took its time from the engine, which has all cores.
    """
    loop = asyncio.get_running_loop()
    binding: asyncio.Future[Bound] = loop.create_future()

    def look() -> list[Learned] | None:
        with database.looking() as reader:
            bound = _bind(reader, settings, {"/question": question}, version, max_facts)
            loop.call_soon_threadsafe(binding.set_result, bound)
            if bound.facts:  # mostly they answer, and nothing else is asked for
                return None
            return attribution.propose(reader, question, bound.version)

    proposing = asyncio.ensure_future(run_in_threadpool(look))
    first: set[asyncio.Future[Any]] = {binding, proposing}
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    if not binding.done():
        await proposing  # raises what kept it from being bound
    return binding.result(), proposing


def _bind_chat(
    database: Database,
    settings: Settings,
    texts: dict[str, str],
    version: int | None,
    max_facts: int,
) -> Bound:
    with database.looking() as reader:
        return _bind(reader, settings, texts, version, max_facts)


def _bind(
    reader: Reader, settings: Settings, texts: dict[str, str], version: int | None, max_facts: int
) -> Bound:
    """Bind the last of the texts, which are given by JSON pointer."""
    question = list(texts.values())[-1]
    vllm.check_texts(reader, settings, texts)
    bound = answers.bind(reader, question, version=version, max_facts=max_facts)
    # Posted while another engine served, a fact may spell what vLLM would take for a role.
    special = partial(vllm.find_special_token, reader, settings)
    return replace(bound, facts=tuple(f for f in bound.facts if not special(f.text)))


def _support(database: Database, bound: Bound, question: str, answer: str) -> tuple[Support, ...]:
    with database.looking() as reader:
        return attribution.find(reader, question, answer, bound.version)


def _check_limit(settings: Settings, field: str, given: int | None) -> None:
    if given is not None and given > settings.max_tokens:
        raise Invalid(f"must be at most {settings.max_tokens}", pointer=f"/{field}")


def _version_of(model: str) -> int | None:
    """Read a model's name; None: the current version."""
    if model == CURRENT:
        return None
    match = _PINNED.fullmatch(model)
    if match is None:
        raise NotFound(f"There is no model `{model}`; name `current` or a version such as `v7`.")
    return int(match[1])


def _model(name: str, row: Checkpoint | Resolved) -> ModelOut:
    return ModelOut(id=name, created=int(row.created_at.timestamp()), root=row.digest)


def _name(bound: Bound) -> dict[str, str]:
    return {"model": f"v{bound.version}", "system_fingerprint": bound.digest[:12]}
