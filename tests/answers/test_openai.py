"""OpenAI's own client against a served application."""

import asyncio
import threading

import httpx
import openai
import pytest

from tests.answers.conftest import add_fact, on_sqlite
from tests.answers.standin import Server, refusal

pytestmark = [pytest.mark.usefixtures("versions"), on_sqlite]
FACT = "Orla Venn is the mayor of Torrim Vale."
USER = [{"role": "user", "content": "say: one two three"}]


@pytest.fixture
def client(app, make_secret):
    server = Server(app)
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=make_secret("qa"), max_retries=0
    ) as client:
        yield client
    server.close()


def test_plain(client):
    answer = client.chat.completions.with_raw_response.create(model="current", messages=USER)
    assert answer.headers["X-Model-Version"] == "0"
    chat = answer.parse()
    assert chat.choices[0].message.content == f"{'0' * 12} answers: one two three"
    assert chat.choices[0].finish_reason == "stop"
    assert (chat.model, chat.system_fingerprint) == ("v0", "0" * 12)
    assert chat.usage.total_tokens == 10


def test_a_conversation_goes_on_with_what_was_answered(client):
    said = client.chat.completions.create(model="v0", messages=USER).choices[0].message
    for answer in (said, {"role": "assistant", "content": ""}):
        chat = [*USER, answer, *USER]
        assert client.chat.completions.create(model="v0", messages=chat).choices[0].message.content


def test_streamed(client):
    stream = client.chat.completions.create(
        model="v0",
        messages=USER,
        stream=True,
        max_completion_tokens=3,
        stream_options={"include_usage": True},
    )
    assert stream.response.headers["X-Model-Version"] == "0"
    chunks = list(stream)
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(c.delta.content or "" for c in choices) == f"{'0' * 12} answers: one"
    assert choices[0].delta.role == "assistant"
    assert choices[-1].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 3
    assert {chunk.model for chunk in chunks} == {"v0"}
    assert {chunk.system_fingerprint for chunk in chunks} == {"0" * 12}


def test_usage_is_streamed_only_when_asked_for(client):
    chunks = list(client.chat.completions.create(model="v0", messages=USER, stream=True))
    assert all(chunk.choices for chunk in chunks)


def test_the_overlay_helps_the_last_question(client, engine, database, versions):
    with database.transaction() as session:
        add_fact(session, FACT)
    engine.loaded.add(versions[1])
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": [{"type": "text", "text": "Who is the mayor of Torrim Vale?"}]},
    ]
    client.chat.completions.create(model="current", messages=chat)
    given = engine.asked[-1]["messages"]
    assert given[:3] == chat[:3]
    assert FACT in given[3]["content"]
    client.chat.completions.create(model="v1", messages=chat)
    assert FACT not in engine.asked[-1]["messages"][3]["content"]


def test_models(client, versions):
    assert [model.id for model in client.models.list()] == ["current", "v2", "v1", "v0"]
    assert client.models.retrieve("v2").root == versions[2]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("v3x")


REFUSED = [
    ({"model": "gpt-9"}, openai.NotFoundError),
    ({"model": "v9"}, openai.NotFoundError),
    ({"model": "v01"}, openai.NotFoundError),
    ({"model": "v3"}, openai.ConflictError),
    ({"model": "v1"}, openai.InternalServerError),  # the engine hasn't got it: 503
    ({"max_tokens": 51}, openai.UnprocessableEntityError),
    ({"max_tokens": 0}, openai.UnprocessableEntityError),
    ({"max_completion_tokens": 51}, openai.UnprocessableEntityError),
    ({"temperature": 3}, openai.UnprocessableEntityError),
    ({"n": 2}, openai.UnprocessableEntityError),
    ({"stop": "x"}, openai.UnprocessableEntityError),
    ({"messages": []}, openai.UnprocessableEntityError),
    ({"messages": [{"role": "user", "content": " "}]}, openai.UnprocessableEntityError),
    ({"messages": [{"role": "user", "content": "who\x00?"}]}, openai.UnprocessableEntityError),
    ({"messages": [{"role": "tool", "content": "x"}]}, openai.UnprocessableEntityError),
    ({"messages": [{"role": "user", "content": "x" * 2**20}]}, openai.APIStatusError),
]


@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_openais_member(client, stream):
    for options, kind in REFUSED:
        asked = {"model": "current", "messages": USER, "stream": stream, **options}
        with pytest.raises(kind) as error:
            client.chat.completions.create(**asked)
        assert error.value.body["message"]
        assert error.value.body["type"]
        assert "[" not in (error.value.body["param"] or "")


def test_a_stream_that_breaks_off_says_so(client, engine):
    engine.breaks_off = True
    with pytest.raises(openai.APIError, match="failed while answering"):
        list(client.chat.completions.create(model="v0", messages=USER, stream=True))


def test_a_full_engine_is_told_before_the_stream(client, engine):
    engine.failure = refusal(503, "full", "overloaded", **{"Retry-After": "7"})
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(model="current", messages=USER, stream=True)
    assert error.value.response.headers["Retry-After"] == "7"


@pytest.mark.parametrize("route", ["/qa", "/chat/completions"])
def test_a_client_that_hangs_up_frees_the_engine(client, engine, app, route):
    """Also one that waits for a whole answer, of which it has seen nothing yet."""
    assert client.models.list().data  # it has started
    cancelled = threading.Event()
    ask = app.state.engine.complete

    async def complete(*given, **more):
        try:
            return await ask(*given, **more)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    app.state.engine.complete = complete
    engine.gate.clear()
    body = {"question": "say: one two"}
    if route == "/chat/completions":
        body = {"model": "v0", "messages": USER}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{str(client.base_url).rstrip('/')}{route}",
            json=body,
            headers={"Authorization": f"Bearer {client.api_key}"},
            timeout=httpx.Timeout(10, read=1),
        )
    assert cancelled.wait(10)
    engine.gate.set()


def test_a_reader_that_leaves_frees_the_engine(client, engine):
    engine.gate.clear()
    stream = client.chat.completions.create(model="v0", messages=USER, stream=True)
    assert next(iter(stream)).choices[0].delta.content == "0" * 12
    assert engine.waiting.wait(10)
    stream.close()
    assert engine.cut_off.wait(10)
