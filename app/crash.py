"""Crash points: the places between an update's claim and its end where dying is worst.

A process may die anywhere; these are the moments at which something is written but not yet named,
named but not yet committed, or committed but not yet told. In service nothing is planted here.
"""

from collections.abc import Callable
from typing import Literal

CrashPoint = Literal[
    "opening",  # an update is written, not committed
    "opened",  # committed, nobody told
    "claiming",
    "claimed",
    "preparing",  # half a job directory
    "prepared",
    "sealing",  # the trainer's files are durable, the manifest is missing
    "sealed",  # the manifest is written, not durable
    "trained",
    "storing",  # the candidate is checked, not in the store
    "stored",  # renamed, not durable, still writable
    "tried",  # the engine has answered from it, no row names it
    "publishing",  # checkpoint row written, nothing else
    "proving",  # proofs written
    "judging",  # facts moved
    "activating",  # all written, not committed
    "published",  # committed, job directory still there
]
planted: Callable[[CrashPoint], None] | None = None


def crash_point(name: CrashPoint) -> None:
    """Do nothing, or what a test has planted."""
    if planted is not None:
        planted(name)
