"""What the engine's routes accept and send: OpenAI's shapes, as vLLM serves them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Turn(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of ``POST /v1/chat/completions``; what the engine can't do is refused by name."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=200)
    messages: list[Turn] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None


class LoadRequest(BaseModel):
    """The body of ``load_lora_adapter`` and ``unload_lora_adapter``; the name is a digest."""

    lora_name: str = Field(max_length=200)
    lora_path: str | None = None  # vLLM's; ours finds the digest in its own store


class Answer:
    """Builds the JSON of one answer, whole or in pieces."""

    def __init__(self, identity: str, digest: str, created: int) -> None:
        self._base = {
            "id": identity,
            "created": created,
            "model": digest,
            "system_fingerprint": digest[:12],
        }

    def whole(self, text: str, finish: str, usage: dict[str, int]) -> dict[str, Any]:
        """Return a ``chat.completion``."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        return self._base | {"object": "chat.completion", "choices": [choice], "usage": usage}

    def piece(self, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        """Return a ``chat.completion.chunk``."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return self._base | {"object": "chat.completion.chunk", "choices": [choice]}

    def total(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return the chunk that carries the usage alone."""
        return self._base | {"object": "chat.completion.chunk", "choices": [], "usage": usage}


def usage_of(prompt: int, completion: int) -> dict[str, int]:
    """Count tokens the way OpenAI names them."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


_CODES = {404: "model_not_found", 409: "conflict", 503: "overloaded", 504: "timeout"}


def error_body(message: str, status: int, param: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error object; ``param`` names the field at fault."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = _CODES.get(status, "invalid_value" if status < 500 else "engine_error")
    return {"error": {"message": message, "type": kind, "code": code, "param": param or None}}
