"""The checkpoints in memory: loaded on demand, evicted by age of use, never while in use."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from app.errors import Conflict, DomainError, NotFound, Unavailable
from app.lm import store
from app.lm.loading import Bundle, default_dtype, load
from app.lm.prepacked import prepack


class TooLarge(DomainError):
    """The checkpoint is larger than the engine's memory limit."""

    title = "Checkpoint too large"


@dataclass(eq=False)
class Resident:
    """A loaded checkpoint and how many hold it: requests, and adapters over it."""

    bundle: Bundle
    root: "Resident | None" = None
    uses: int = 0
    used_at: float = 0.0
    loaded_at: int = field(default_factory=lambda: int(time.time()))


class Residents:
    """Loads checkpoints in a thread of its own and keeps them within ``limit`` bytes.

    All methods belong to one event loop; only the loading itself leaves it.
    """

    def __init__(self, folder: Path, limit: int, device: str) -> None:
        self._folder = folder
        self._limit = limit
        self._device = device
        self._loaded: dict[str, Resident] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._reserved = 0  # bytes that running loads will need
        self._loader = ThreadPoolExecutor(1, "loader")

    def list(self) -> dict[str, Resident]:
        """Return the resident checkpoints by digest."""
        return dict(self._loaded)

    @asynccontextmanager
    async def using(self, digest: str) -> AsyncIterator[Resident]:
        """Hold a checkpoint, loading it first where needed; it stays resident meanwhile.

        Raises ``NotFound``, ``CheckpointCorrupt``, ``TooLarge``, or ``Unavailable`` when all the
        memory is in use.
        """
        while digest not in self._loaded:
            await self._ensure(digest)
        resident = self._loaded[digest]
        resident.uses += 1
        try:
            yield resident
        finally:
            resident.uses -= 1
            resident.used_at = time.monotonic()

    def unload(self, digest: str) -> None:
        """Let go of a checkpoint; ``Conflict`` while it is in use."""
        if digest not in self._loaded:
            raise NotFound(f"Checkpoint {digest[:80]} is not loaded.")
        if self._loaded[digest].uses:
            raise Conflict(f"Checkpoint {digest} is in use; try again.")
        self._forget(digest)

    async def _ensure(self, digest: str) -> None:
        task = self._loading.get(digest)
        if task is None:
            task = asyncio.create_task(self._load(digest))
            self._loading[digest] = task
            task.add_done_callback(partial(self._loading_ended, digest))
        await asyncio.shield(task)  # one impatient client must not stop the others' load

    def _loading_ended(self, digest: str, task: asyncio.Task[None]) -> None:
        del self._loading[digest]
        if not task.cancelled():
            task.exception()  # retrieved here too, should nobody be waiting any more

    async def _load(self, digest: str) -> None:
        manifest = store.manifest_of(self._folder, digest)
        if manifest.root is None:
            await self._read(digest, manifest, None)
            return
        async with self.using(manifest.root) as root:
            await self._read(digest, manifest, root)

    async def _read(self, digest: str, manifest: store.Manifest, root: Resident | None) -> None:
        if root:
            size = manifest.files["adapter_model.safetensors"].size
        else:
            size = manifest.parameters * default_dtype(self._device).itemsize
        self._make_room(digest, size)
        self._reserved += size
        try:
            read = partial(self._load_to_answer, digest, root.bundle if root else None)
            bundle = await asyncio.get_running_loop().run_in_executor(self._loader, read)
        finally:
            self._reserved -= size
        if root:
            root.uses += 1
        self._loaded[digest] = Resident(bundle, root, used_at=time.monotonic())

    def _load_to_answer(self, digest: str, root: Bundle | None) -> Bundle:
        bundle = load(self._folder, digest, device=self._device, root=root)
        if root is None:
            prepack(bundle.model)
        return bundle

    def _make_room(self, digest: str, size: int) -> None:
        """Evict what was longest unused until ``size`` bytes more fit."""
        if size > self._limit:
            raise TooLarge(
                f"Checkpoint {digest} needs {size / 2**20:,.0f} MiB;"
                f" the engine may use {self._limit / 2**20:,.0f}."
            )
        # All are chosen before one goes: what can't be loaded anyway must cost nobody's place.
        left, evicted = dict(self._loaded), list[str]()
        uses = {id(resident): resident.uses for resident in left.values()}
        held = self._reserved + size + self._held()
        while held > self._limit:
            idle = [key for key, resident in left.items() if not uses[id(resident)]]
            if not idle:
                raise Unavailable("The engine's memory is taken by checkpoints in use.")
            oldest = min(idle, key=lambda key: left[key].used_at)
            resident = left.pop(oldest)
            held -= resident.bundle.size
            if resident.root:
                uses[id(resident.root)] -= 1
            evicted.append(oldest)
        for key in evicted:
            self._forget(key)

    def _held(self) -> int:
        return sum(resident.bundle.size for resident in self._loaded.values())

    def _forget(self, digest: str) -> None:
        resident = self._loaded.pop(digest)
        if resident.root:
            resident.root.uses -= 1
