"""A real HTTP server that keeps the engine's contract and answers with canned text.

It knows the checkpoints that were loaded into it. Every answer starts with the first twelve digits
of the digest; a question of the form `say: words` is answered with those words. It notes what it
was asked, can be told to fail, and can be made to wait half-way through an answer.
"""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse


class Standin:
    """The engine's state, and the application over it."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.asked: list[dict] = []
        self.failure: Response | None = None  # the answer to every question
        self.refuses_to_load = False
        self.is_healthy = True
        self.probes = 0  # of its health
        self.answers_as: str | None = None  # another name than the one that was asked
        self.breaks_off = False  # streams end with an error
        self.says: dict[str, str] = {}  # by digest: the answer to everything
        self.longest = 10**6  # characters of the last message
        self.gate = threading.Event()  # answers wait for it half-way
        self.gate.set()
        self.waiting = threading.Event()
        self.cut_off = threading.Event()  # a reader went away in the middle of a stream
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.chat)
        self.app.get("/v1/models")(self.models)
        self.app.post("/v1/load_lora_adapter")(self.load)
        self.app.post("/v1/unload_lora_adapter")(self.unload)
        self.app.get("/health")(self.health)

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if self.failure is not None:
            return self.failure
        if body["model"] not in self.loaded:
            return refusal(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        question = body["messages"][-1]["content"]
        if len(question) + (body.get("max_tokens") or 0) > self.longest:
            return refusal(400, "The prompt is too long.", "invalid_request_error")
        named = self.answers_as or body["model"]
        canned = f"{body['model'][:12]} answers: {question.partition('say: ')[2] or question}"
        words = self.says.get(body["model"], canned).split(" ")
        kept = words[: body.get("max_tokens")]
        finish = "stop" if len(kept) == len(words) else "length"
        if body.get("stream"):
            events = self.stream(named, kept, finish, body.get("stream_options"))
            return StreamingResponse(events, media_type="text/event-stream")
        await self.pause()
        usage = usage_of(len(kept))
        message = {"role": "assistant", "content": " ".join(kept)}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return JSONResponse(envelope("chat.completion", named, choice) | {"usage": usage})

    async def stream(
        self, model: str, words: list[str], finish: str, options: dict | None
    ) -> AsyncIterator[str]:
        try:
            for number, word in enumerate(words):
                if number == 1:
                    await self.pause()
                text = word if number == 0 else f" {word}"
                yield chunk(model, {"role": "assistant", "content": text}, None)
            if self.breaks_off:
                yield f"data: {json.dumps({'error': {'message': 'out of memory'}})}\n\n"
                return
            yield chunk(model, {}, finish)
            if options and options["include_usage"]:
                total = envelope("chat.completion.chunk", model) | {"usage": usage_of(len(words))}
                yield f"data: {json.dumps(total)}\n\n"
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.cut_off.set()
            raise

    async def pause(self) -> None:
        if not self.gate.is_set():
            self.waiting.set()
            await asyncio.to_thread(self.gate.wait, 10)

    async def models(self) -> dict:
        cards = [{"id": digest, "object": "model"} for digest in sorted(self.loaded)]
        return {"object": "list", "data": cards}

    async def health(self) -> Response:
        self.probes += 1
        return Response(status_code=200 if self.is_healthy else 503)

    async def load(self, request: Request) -> Response:
        body = await request.json()
        if self.refuses_to_load:
            return refusal(500, "model.safetensors has changed", "server_error")
        if not body["lora_path"].endswith(body["lora_name"]):
            return refusal(404, f"No checkpoint at {body['lora_path']}.", "NotFoundError")
        self.loaded.add(body["lora_name"])
        return Response("Success")

    async def unload(self, request: Request) -> Response:
        digest = (await request.json())["lora_name"]
        if digest not in self.loaded:
            return refusal(404, f"The model `{digest}` is not loaded.", "NotFoundError")
        self.loaded.remove(digest)
        return Response("Success")


def usage_of(words: int) -> dict:
    return {"prompt_tokens": 5, "completion_tokens": words, "total_tokens": 5 + words}


def envelope(kind: str, model: str, *choices: dict) -> dict:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": model, "choices": choices}


def chunk(model: str, delta: dict, finish: str | None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps(envelope('chat.completion.chunk', model, choice))}\n\n"


def refusal(status: int, message: str, kind: str, **headers: str) -> Response:
    error = {"message": message, "type": kind, "code": status}
    return JSONResponse({"error": error}, status, headers)


class Server:
    """Serves an ASGI application on a free port, in a thread, until closed."""

    def __init__(self, app: FastAPI, port: int = 0) -> None:
        self.socket = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        self.server = uvicorn.Server(config)
        # The socket listens already: a request sent before the server runs waits in its queue.
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True
        )
        self.thread.start()

    def close(self) -> None:
        """Stop serving and wait for the thread."""
        self.server.should_exit = True
        self.thread.join(10)
        self.socket.close()
