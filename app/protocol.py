"""HTTP/1.1 as API and engine read it: by a compiled parser, with the limit that it lacks."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 1024  # bytes


class HttpProtocol(HttpToolsProtocol):
    """Refuses with 400 what goes on and on without a body's next piece or the request's end.

    Such is an endless URL, header, trailer or chunk extension; the parser would keep it all.
    """

    _unfinished = 0

    def data_received(self, data: bytes) -> None:
        """Read what came; past the limit, refuse and hang up."""
        self._unfinished += len(data)
        super().data_received(data)
        if self._unfinished > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The request's head is too long.")

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body; what came before it was no longer than it may be."""
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request, and the count with it."""
        self._unfinished = 0
        super().on_message_complete()
