"""OpenAI's form of an answer that is streamed: chunks as server-sent events."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from app.engine_answers import Delta, Usage
from app.errors import DomainError
from app.schemas.answers import UsageOut


def usage_of(usage: Usage) -> UsageOut:
    """Count an answer's tokens in OpenAI's words."""
    read, written = usage.prompt_tokens, usage.completion_tokens
    return UsageOut(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


async def events_of(
    head: dict[str, Any], deltas: AsyncGenerator[Delta], *, with_usage: bool
) -> AsyncGenerator[str]:
    """Yield OpenAI's chunks; an engine that breaks off is told as an `error` event."""
    head = {**head, "object": "chat.completion.chunk"}
    role = {"role": "assistant"}
    async with aclosing(deltas):
        try:
            async for delta in deltas:
                if delta.usage is not None:
                    if with_usage:
                        yield _event(
                            {**head, "choices": [], "usage": usage_of(delta.usage).model_dump()}
                        )
                    continue
                content = {**role, "content": delta.text} if delta.text or role else {}
                role = {}
                choice = {"index": 0, "delta": content, "finish_reason": delta.finish_reason}
                yield _event({**head, "choices": [choice]})
        except DomainError as error:
            yield _event({"error": {"message": error.detail, "type": "server_error"}})
            return
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
