"""``python -m tasks.training JOB_DIR``: a process that trains once and dies with its supervisor.

Exit status 0 with a result.json; 143 after SIGTERM and 1 after a bug, both without one. Where the
recipe asks for several devices it starts a process for each and has their status (``launch.py``).
"""

import ctypes
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from app.errors import DomainError
from app.lm import store
from app.lm.memory import bound_cache, reuse_memory
from app.recipe import SMALL_MODEL_PARAMETERS
from tasks.training.errors import LAUNCHER, TrainingError
from tasks.training.job import Events, Head, read_job, write_result
from tasks.training.launch import devices_of, launch

SUPERVISOR = int(os.environ.get(LAUNCHER, os.getppid()))
IS_LAUNCHED = "TORCHELASTIC_RUN_ID" in os.environ  # by torchrun, as one of a run's processes
IS_FIRST = os.environ.get("RANK", "0") == "0"
PR_SET_PDEATHSIG = 1
STOPPED = 128 + signal.SIGTERM


def main(arguments: list[str]) -> int:
    """Run the job in the directory given; return the exit status."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        sys.stderr.write("usage: python -m tasks.training JOB_DIR\n")
        return 2
    folder = Path(arguments[0])
    if not IS_LAUNCHED:  # else it may wait for another process, where no Python runs
        signal.signal(signal.SIGTERM, _stop)
    _die_with_supervisor()
    if IS_FIRST:
        (folder / "result.json").unlink(missing_ok=True)
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    if not IS_LAUNCHED and (devices := devices_of(folder)) > 1:
        return launch(folder, devices)
    result = carry_out(folder)
    # From here on the work is done: a late SIGTERM must not leave a result and status 143.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if result is None:
        return 0
    write_result(folder, result)
    # torchrun ends the other processes, which may wait for this one, when one has failed.
    return int(IS_LAUNCHED and result["status"] == "failed")


def carry_out(folder: Path) -> dict[str, Any] | None:
    """Do the job in this process and return its result, also where it failed for a known reason.

    None in a process that has only trained along with the first one.
    """
    # cuBLAS reads this once, when torch first uses the GPU; without it sums vary from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    bound_cache()
    events = Events(folder) if IS_FIRST else None
    try:
        job = read_job(folder)
        if _is_large(job.head):
            reuse_memory()
        import torch

        from tasks.training.run import run
        from tasks.training.spread import join

        spread = join(job.head.recipe)
        torch.set_num_threads(max(1, job.head.threads // spread.size))
        # A GPU lacks a few deterministic kernels: it warns there and goes on.
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        return run(job, events, spread)
    except TrainingError as error:
        known = {"type": error.type, "detail": error.detail, "fact_ids": error.fact_ids}
        return {"status": "failed", "error": known}
    finally:
        if events:
            events.close()


def _is_large(head: Head) -> bool:
    """Say whether the parent's steps gain by more memory; one that can't be read is told later."""
    with suppress(DomainError):
        return store.manifest_of(head.store, head.parent).parameters >= SMALL_MODEL_PARAMETERS
    return False


def _stop(number: int, frame: FrameType | None) -> None:
    # Raised between two operations of the main thread, at most one operation later. What would
    # swallow it (a finaliser) is met by the second signal that a supervisor sends.
    del number, frame
    raise SystemExit(STOPPED)


def _die_with_supervisor() -> None:
    """Have the kernel kill this process when its parent dies (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != SUPERVISOR:
        raise SystemExit(STOPPED)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    if IS_LAUNCHED:
        # All is written. Now and then gloo's threads abort a process that ends as usual, and
        # torchrun would end the first one for it, which may still prove.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
