"""The client over a real connection: what it retries, what it never repeats, what it says."""

import json
import socket
from collections.abc import Callable

import httpx
import pytest

from app.client import AlmanacClient, ApiError
from tests.cli.service import Reply, Service

FACT = {"id": "fact_1", "text": "A is B.", "status": "pending", "added_later": 1}
PROBLEM = {"title": "Conflict", "status": 409, "detail": "Version 3 is rejected."}
UPDATE = {"id": "update_1", "kind": "learn", "status": "succeeded", "version": 1}
BUSY = Reply(503, {"detail": "The engine's queue is full."}, {"Retry-After": "2"})


def connect(service: Service, waits: list[float] | None = None) -> AlmanacClient:
    waited = waits if waits is not None else []
    return AlmanacClient(service.url, "alm_key", sleep=waited.append)


def sse(*events: dict[str, object]) -> bytes:
    lines = [
        f"event: {event['type']}\ndata: {json.dumps(event)}\nid: {event['id']}\n\n"
        for event in events
    ]
    return (": keepalive\n\n" + "".join(lines)).encode()


def event(number: int, kind: str = "progress") -> dict[str, object]:
    return {"id": number, "type": kind, "data": {"phase": "training", "step": number}, "at": ""}


def test_sends_the_key_and_ignores_fields_it_does_not_know(
    serve: Callable[..., Service],
) -> None:
    service = serve(Reply(201, FACT))
    with connect(service) as client:
        fact = client.add_fact({"text": "A is B."})
    assert (fact.id, fact.status) == ("fact_1", "pending")
    assert service.asked[0].headers["Authorization"] == "Bearer alm_key"
    assert service.asked[0].body == {"text": "A is B."}


def test_a_problem_becomes_a_sentence(serve: Callable[..., Service]) -> None:
    with connect(serve(Reply(409, PROBLEM))) as client, pytest.raises(ApiError) as caught:
        client.activate(3, "try")
    assert (caught.value.status, str(caught.value)) == (409, "Version 3 is rejected.")


def test_an_answer_that_is_no_problem_is_still_a_sentence(serve: Callable[..., Service]) -> None:
    with connect(serve(Reply(502, b"<html>"))) as client, pytest.raises(ApiError) as caught:
        client.get_fact("fact_1")
    assert str(caught.value) == "GET /v1/facts/fact_1 answered 502 Bad Gateway."


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"[" * 100_000])
def test_a_good_answer_that_is_not_the_services_is_an_error(
    serve: Callable[..., Service], body: bytes
) -> None:
    with connect(serve(Reply(200, body))) as client:
        for call in (
            lambda: client.ask("Who?"),
            lambda: client.get_fact("fact_1"),
            lambda: client.delete_fact("fact_1"),
            lambda: list(client.list_keys()),
            lambda: list(client.diff(1)),
            lambda: client.wait_for_update("update_1"),
        ):
            with pytest.raises(ApiError, match="answered 200 OK, but no JSON object"):
                call()


@pytest.mark.parametrize(
    "url", ["http://[::1", "here:80", "ftp://here", "http://", "http://xn--", ""]
)
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="is no service's address"):
        AlmanacClient(url, "key")


@pytest.mark.parametrize("key", ["é", "alm_a\nb", "", "alm a"])
def test_a_key_that_is_none_is_refused_at_once_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match=r"^An API key is one word of ASCII"):
        AlmanacClient("http://here", key)


def test_waits_as_told_and_repeats_with_the_same_idempotency_key(
    serve: Callable[..., Service],
) -> None:
    service, waits = serve(BUSY, BUSY, Reply(201, FACT)), []
    with connect(service, waits) as client:
        assert client.add_fact({"text": "A is B."}).id == "fact_1"
    assert waits == [2.0, 2.0]
    assert len({asked.headers["Idempotency-Key"] for asked in service.asked}) == 1


def test_gives_up_on_a_service_that_stays_busy(serve: Callable[..., Service]) -> None:
    service = serve(BUSY)
    with connect(service) as client, pytest.raises(ApiError, match="queue is full"):
        client.ask("Who?")
    assert len(service.asked) == 5


def test_a_get_that_broke_off_is_sent_again(serve: Callable[..., Service]) -> None:
    service = serve(Reply(cut=True), Reply(200, FACT))
    with connect(service) as client:
        assert client.get_fact("fact_1").id == "fact_1"


def test_a_post_that_broke_off_is_never_sent_again(serve: Callable[..., Service]) -> None:
    service = serve(Reply(cut=True), Reply(200, {}))
    with connect(service) as client, pytest.raises(ApiError) as caught:
        client.rollback("try")
    assert caught.value.status == 0
    assert len(service.asked) == 1


def test_what_takes_too_long_is_not_asked_again() -> None:
    """The service may be at work on it still."""
    asked = []

    def late(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        raise httpx.ReadTimeout("late", request=request)

    with (
        AlmanacClient("http://here", "key", transport=httpx.MockTransport(late)) as client,
        pytest.raises(ApiError, match="too long"),
    ):
        client.get_fact("fact_1")
    assert len(asked) == 1


def test_says_where_no_service_was_found() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with (
            AlmanacClient(url, "key", sleep=lambda _: None) as client,
            pytest.raises(ApiError, match=f"No service can be reached at {url}"),
        ):
            client.get_update("update_1")


def test_lists_read_on_page_by_page(serve: Callable[..., Service]) -> None:
    second = {**FACT, "id": "fact_2"}
    service = serve(
        Reply(200, {"data": [FACT], "has_more": True}),
        Reply(200, {"data": [second], "has_more": False}),
    )
    with connect(service) as client:
        assert [fact.id for fact in client.list_facts("pending")] == ["fact_1", "fact_2"]
    assert "after=fact_1" in service.asked[1].path
    assert all("status=pending" in asked.path for asked in service.asked)


def test_a_broken_event_stream_goes_on_after_the_last_event(
    serve: Callable[..., Service],
) -> None:
    whole = sse(event(1, "queued"), event(2), event(3))
    service = serve(
        Reply(200, whole[:-20], cut=True),  # the third event breaks off in the middle
        Reply(200, sse(event(3), event(4, "finished"))),
        Reply(200, UPDATE),
    )
    seen: list[int] = []
    with connect(service) as client:
        update = client.wait_for_update("update_1", lambda found: seen.append(found.id))
    assert seen == [1, 2, 3, 4]
    assert update.version == 1
    assert [asked.headers.get("Last-Event-ID") for asked in service.asked[:2]] == ["0", "2"]


def test_a_stream_that_ends_before_the_update_does_is_opened_again(
    serve: Callable[..., Service],
) -> None:
    service = serve(
        Reply(200, sse(event(1))),
        Reply(200, {**UPDATE, "status": "running"}),
        Reply(200, sse(event(2, "finished"))),
        Reply(200, UPDATE),
    )
    with connect(service) as client:
        assert [found.id for found in client.follow_update("update_1")] == [1, 2]
