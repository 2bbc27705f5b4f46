"""What tests plant at the crash points of a process: the deed that they armed, once.

``armed`` lies in the store and holds a point's name and a deed: a signal's name, or ``fill``, which
fills the store's disk with the file ``ballast``. Whoever strikes renames it.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Literal

from app import crash


def plant(store: Path) -> None:
    """Let this process send itself the armed signal at the armed point."""

    def strike(name: str) -> None:
        armed = store / "armed"
        try:
            point, deed = armed.read_text().split()
            if point != name:
                return
            armed.rename(store / "struck")
        except (FileNotFoundError, ValueError):
            return
        if deed == "fill":
            fill(store)
        else:
            os.kill(os.getpid(), signal.Signals[deed])

    crash.planted = strike


def fill(store: Path) -> None:
    with (store / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))


def arm(store: Path, point: str, deed: signal.Signals | Literal["fill"]) -> Path:
    """Arm a point; return the file that appears when it has struck."""
    store.mkdir(parents=True, exist_ok=True)
    struck = store / "struck"
    struck.unlink(missing_ok=True)
    staged = store / "arming"
    staged.write_text(f"{point} {deed if deed == 'fill' else deed.name}")
    staged.rename(store / "armed")
    return struck
