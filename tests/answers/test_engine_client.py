"""The engine's client: the contract, and what becomes of each failure."""

import asyncio
import json
import socket
import threading
from contextlib import aclosing, contextmanager, suppress

import pytest
from starlette.responses import Response

from app.engine_answers import Delta, Usage
from app.engine_client import EngineClient
from app.errors import Invalid, Unavailable
from app.prompts import ask
from tests.answers.engine_contract import CONTRACT, check_load_is_repeatable
from tests.answers.standin import refusal

DIGEST = "a" * 64
MESSAGES = ask("say: one two three")


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_the_stand_in_keeps_the_contract(engine, check):
    engine.loaded.add(DIGEST)
    check(engine.url, DIGEST)


def test_the_stand_in_loads(engine):
    check_load_is_repeatable(engine.url, DIGEST, f"/store/objects/{DIGEST}")


def complete(url, timeout_s=5.0, times=1):
    """Answer with an async client, `times` times over the same connections; return the last."""

    async def run():
        client = EngineClient(url, timeout_s)
        try:
            for _ in range(times):
                found = await client.complete(DIGEST, MESSAGES, 10)
            return found
        finally:
            await client.aclose()

    return asyncio.run(run())


def collect(url, stop_after=None):
    async def run():
        client = EngineClient(url, 5.0)
        found = []
        try:
            async with aclosing(client.stream(DIGEST, MESSAGES, 10)) as deltas:
                async for delta in deltas:
                    found.append(delta)
                    if len(found) == stop_after:
                        break
        finally:
            await client.aclose()
        return found

    return asyncio.run(run())


def test_whole_and_streamed(engine):
    engine.loaded.add(DIGEST)
    found = complete(engine.url)
    assert (found.text, found.finish_reason) == ("aaaaaaaaaaaa answers: one two three", "stop")
    deltas = collect(engine.url)
    assert "".join(delta.text for delta in deltas) == found.text
    assert deltas[-2:] == [Delta("", "stop"), Delta("", usage=Usage(5, 5))]
    assert found.usage == Usage(5, 5)
    assert engine.asked[0]["temperature"] == 0.0


def test_a_reader_that_leaves_stops_the_engine(engine):
    engine.loaded.add(DIGEST)
    engine.gate.clear()
    assert [delta.text for delta in collect(engine.url, stop_after=1)] == ["aaaaaaaaaaaa"]
    assert engine.cut_off.wait(10)


FAILURES = [
    (refusal(503, "full", "overloaded", **{"Retry-After": "7"}), Unavailable, 7),
    (refusal(429, "slower", "rate_limit", **{"Retry-After": "soon"}), Unavailable, 1),
    (refusal(500, "model.safetensors has changed", "server_error"), Unavailable, 1),
    (refusal(400, "too long", "invalid_request_error"), Invalid, None),
    (Response("<html>", 502), Unavailable, 1),
    (Response("{}", 200, media_type="application/json"), Unavailable, 1),
    (Response("not json", 200), Unavailable, 1),
    (Response("[]", 200, media_type="application/json"), Unavailable, 1),
    (Response('{"choices": [7], "usage": null}', 200), Unavailable, 1),
]


@pytest.mark.parametrize(("failure", "kind", "retry_after_s"), FAILURES)
def test_failures_are_ours(engine, failure, kind, retry_after_s):
    engine.loaded.add(DIGEST)
    engine.failure = failure
    with pytest.raises(kind) as plain:
        complete(engine.url)
    with pytest.raises(kind):
        collect(engine.url)
    assert plain.value.retry_after_s == retry_after_s


def test_an_unknown_digest_is_unavailable(engine):
    with pytest.raises(Unavailable, match="does not exist"):
        complete(engine.url)


def test_proxies_of_the_environment_are_for_the_world_outside(engine, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    client = EngineClient(engine.url, 5.0)
    assert client.health()
    client.close()


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Unavailable, match="can't be reached"):
        complete(url)
    client = EngineClient(url, 1.0)
    assert not client.health()
    with pytest.raises(Unavailable):
        client.prove(DIGEST, "/nowhere")
    client.close()


ANSWER = json.dumps(
    {
        "model": DIGEST,
        "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
)
WHOLE = f"HTTP/1.1 200 OK\r\nContent-Length: {len(ANSWER)}\r\n\r\n{ANSWER}"
BROKEN_STREAM = (
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    f'data: {{"model": "{DIGEST}", "choices":'
    ' [{"delta": {"content": "half"}, "finish_reason": null}]}\n\n'
)


@contextmanager
def scripted(*connections):
    """Serve raw connections: each a list of what is said to its requests; "" hangs up on one."""
    listener = socket.create_server(("127.0.0.1", 0))
    requests = []

    def serve():
        with suppress(OSError):  # closed before everything was asked
            for replies in connections:
                peer, _ = listener.accept()
                with peer:
                    for reply in replies:
                        requests.append(read_request(peer))
                        peer.sendall(reply.encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def read_request(peer):
    data = b""
    while b"\r\n\r\n" not in data:
        data += peer.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    size = next(
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length")
    )
    while len(body) < size:
        body += peer.recv(65536)
    return body


def test_a_stale_connection_is_tried_once_more():
    with scripted([WHOLE, ""], [WHOLE]) as (url, requests):
        assert complete(url, times=2).text == "yes"
    assert len(requests) == 3


def test_an_engine_that_dies_on_a_question_isnt_asked_again():
    with scripted([""], [WHOLE]) as (url, requests):
        with pytest.raises(Unavailable, match="broke"):
            complete(url)
        assert len(requests) == 1


def test_a_stream_that_breaks_off_is_no_answer():
    with (
        scripted([BROKEN_STREAM]) as (url, _),
        pytest.raises(Unavailable, match="broke off"),
    ):
        collect(url)


def test_an_engine_that_says_nothing_is_too_slow():
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(Unavailable, match="too long"),
    ):
        complete(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)
