"""A real HTTP server that answers from a script and remembers what it was asked."""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One scripted answer; `body` bytes go out as they are, `cut` breaks the connection off."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Service:
    """Answers requests in the order of the script; the last reply stands for all that follow."""

    def __init__(self, replies: list[Reply]) -> None:
        self.replies = replies
        self.asked: list[Asked] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                size = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(size)) if size else None
                service.asked.append(
                    Asked(self.command, self.path, dict(self.headers.items()), body)
                )
                reply = service.replies[min(len(service.asked), len(service.replies)) - 1]
                content = reply.body
                if not isinstance(content, bytes):
                    content = b"" if content is None else json.dumps(content).encode()
                if reply.cut and not content:
                    self.connection.close()
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                # A promised byte that never comes is a connection that broke off.
                self.send_header("content-length", str(len(content) + reply.cut))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the base class's names

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
