"""What tests plant at the crash points of a process: the signal that they armed, once.

``armed`` lies in the store and holds a point's name and a signal's; whoever strikes renames it.
"""

import os
import signal
from pathlib import Path

from app import crash


def plant(store: Path) -> None:
    """Let this process send itself the armed signal at the armed point."""

    def strike(name: str) -> None:
        armed = store / "armed"
        try:
            point, number = armed.read_text().split()
            if point != name:
                return
            armed.rename(store / "struck")
        except (FileNotFoundError, ValueError):
            return
        os.kill(os.getpid(), signal.Signals[number])

    crash.planted = strike


def arm(store: Path, point: str, number: signal.Signals) -> Path:
    """Arm a point; return the file that appears when it has struck."""
    store.mkdir(parents=True, exist_ok=True)
    struck = store / "struck"
    struck.unlink(missing_ok=True)
    staged = store / "arming"
    staged.write_text(f"{point} {number.name}")
    staged.rename(store / "armed")
    return struck
