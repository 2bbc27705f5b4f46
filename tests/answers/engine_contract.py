"""What every engine must do (docs/architecture.md): functions over a base URL and a digest.

The digest names a checkpoint that the engine serves already. Run `check_all(url, digest)`, or each
of CONTRACT on its own.
"""

import json
from pathlib import Path

import httpx
import pytest

from app.engine_client import EngineClient
from app.errors import Unavailable
from app.prompts import ask

UNKNOWN = "f" * 64
QUESTION = ask("What is the capital of Veldoria?")
TIMEOUT_S = 120.0


def check_health(url: str, digest: str) -> None:
    del digest
    assert httpx.get(f"{url}/health").status_code == 200
    client = EngineClient(url, TIMEOUT_S)
    assert client.health()
    client.close()


def check_models_are_digests(url: str, digest: str) -> None:
    answer = httpx.get(f"{url}/v1/models").json()
    assert answer["object"] == "list"
    assert digest in [card["id"] for card in answer["data"]]


def check_plain_answer(url: str, digest: str) -> None:
    body = {"model": digest, "messages": QUESTION, "max_tokens": 8}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=TIMEOUT_S).json()
    (choice,) = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert answer["model"] == digest
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    assert choice["finish_reason"] in ("stop", "length")
    assert 0 <= answer["usage"]["completion_tokens"] <= 8
    assert answer["usage"]["prompt_tokens"] > 0


def check_streamed_answer_is_the_plain_one(url: str, digest: str) -> None:
    body = {"model": digest, "messages": QUESTION, "max_tokens": 8}
    path = f"{url}/v1/chat/completions"
    plain = httpx.post(path, json=body, timeout=TIMEOUT_S).json()["choices"][0]
    events = []
    with httpx.stream("POST", path, json={**body, "stream": True}, timeout=TIMEOUT_S) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(c["delta"].get("content") or "" for c in choices) == plain["message"]["content"]
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == [plain["finish_reason"]]


def check_greedy_answers_repeat(url: str, digest: str) -> None:
    client = EngineClient(url, TIMEOUT_S)
    first, second = (client.complete_sync(digest, QUESTION, 8) for _ in range(2))
    assert first == second
    client.close()


def check_unknown_digest_is_404(url: str, digest: str) -> None:
    del digest
    body = {"model": UNKNOWN, "messages": QUESTION, "max_tokens": 8}
    for extra in ({}, {"stream": True}):
        response = httpx.post(f"{url}/v1/chat/completions", json={**body, **extra})
        assert response.status_code == 404
        error = response.json()
        assert set(error.get("error", error)) >= {"message", "type", "code"}
    response = httpx.post(f"{url}/v1/unload_lora_adapter", json={"lora_name": UNKNOWN})
    assert response.status_code in (400, 404)


def check_load_is_repeatable(
    url: str, digest: str, path: str, pushes_from: Path | None = None
) -> None:
    client = EngineClient(url, TIMEOUT_S, pushes_from)
    for _ in range(2):
        client.prove(digest, path)
    with pytest.raises(Unavailable):
        client.prove(UNKNOWN, f"{path}/missing")
    client.close()


CONTRACT = (
    check_health,
    check_models_are_digests,
    check_plain_answer,
    check_streamed_answer_is_the_plain_one,
    check_greedy_answers_repeat,
    check_unknown_digest_is_404,
)


def check_all(url: str, digest: str, path: str, pushes_from: Path | None = None) -> None:
    """Check everything; `path` is the checkpoint's folder, `pushes_from` as the client takes it."""
    check_load_is_repeatable(url, digest, path, pushes_from)
    for check in CONTRACT:
        check(url, digest)
