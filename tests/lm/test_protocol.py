"""The server's reading of HTTP, over a socket: what never ends is refused, what is long is read."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from app.protocol import MAX_HEAD, HttpProtocol

PIECE = 1000
ENDLESS = {
    "url": (b"GET /", b"a"),
    "header": (b"GET / HTTP/1.1\r\nHost: here\r\nX-Long: ", b"a"),
    "headers": (b"GET / HTTP/1.1\r\nHost: here\r\n", b"X-More: again\r\n"),
    "chunk's extension": (
        b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1;more=",
        b"a",
    ),
    "trailers": (
        b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"X-More: again\r\n",
    ),
}


async def _count(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Serve the length of each body that is posted."""
    app = Starlette(routes=[Route("/", _count, methods=["POST"])])
    config = uvicorn.Config(app, port=0, log_level="critical", http=HttpProtocol)
    server = uvicorn.Server(config)
    bound = config.bind_socket()
    bound.listen()  # from now on connections wait
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    yield bound.getsockname()[1]
    server.should_exit = True
    thread.join()
    bound.close()


@pytest.mark.parametrize("what", ENDLESS)
def test_what_never_ends_is_refused(port: int, what: str) -> None:
    begins, goes_on = ENDLESS[what]
    piece = goes_on * (PIECE // len(goes_on))
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(begins)
        answer = b"HTTP/1.1 400 "
        with suppress(ConnectionError):  # it hung up while we were talking
            for _ in range(4 * MAX_HEAD // PIECE):
                client.sendall(piece)
            answer = client.recv(PIECE)
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_long_bodies_are_read(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(3):
            assert client.post("/", content=b"a" * 10 * MAX_HEAD).text == str(10 * MAX_HEAD)
            assert client.post("/", content=iter([b"a" * MAX_HEAD] * 10)).text == str(10 * MAX_HEAD)
            assert client.post("/", content=iter([b"a"] * 2000)).text == "2000"
