"""vLLM's OpenAI server as its documentation and reports describe it, the bad sides included.

It serves a root under the name that it was started with and adapters that are loaded into it, which
it forgets when it restarts. Loading one twice is a 400, an unknown model a 404. A careless one (as
reported of some releases) answers 200 for a folder that isn't there and then from the root.
"""

from pathlib import Path

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from tests.answers.standin import Standin


class Vllm(Standin):
    """The server's state; `flat` gives errors in the form of releases before 0.10."""

    def __init__(self, root: str, *, careless: bool = False, flat: bool = False) -> None:
        super().__init__()
        self.root, self.careless, self.flat = root, careless, flat
        self.loads = 0
        self.hollow: set[str] = set()  # adapters that it only believes to have
        self.restart()

    def restart(self) -> None:
        self.loaded = {self.root}
        self.hollow.clear()

    async def chat(self, request: Request) -> Response:
        name = (await request.json())["model"]
        self.answers_as = self.root if name in self.hollow else None
        if name not in self.loaded:
            return self.refuse(404, f"The model `{name}` does not exist.", "NotFoundError")
        return await super().chat(request)

    async def load(self, request: Request) -> Response:
        body = await request.json()
        name, path = body["lora_name"], Path(body["lora_path"])
        self.loads += 1
        if name in self.loaded:
            message = f"The lora adapter '{name}' has already been loaded."
            return self.refuse(400, message, "InvalidUserInput")
        if not (path / "adapter_config.json").is_file():
            if not self.careless:
                message = f"Loading lora {name} failed: No adapter found for {path}"
                return self.refuse(404, message, "NotFoundError")
            self.hollow.add(name)
        self.loaded.add(name)
        return Response(f"Success: LoRA adapter '{name}' added successfully.")

    def refuse(self, status: int, message: str, kind: str) -> Response:
        error = {"message": message, "type": kind, "param": None, "code": status}
        return JSONResponse({"object": "error", **error} if self.flat else {"error": error}, status)
