"""``python -m tasks.training JOB_DIR``: a process that trains once and dies with its supervisor.

Exit status 0 with a result.json; 143 after SIGTERM and 1 after a bug, both without one.
"""

import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from tasks.training.errors import TrainingError
from tasks.training.job import Events, read_job, write_result

SUPERVISOR = os.getppid()
PR_SET_PDEATHSIG = 1
STOPPED = 128 + signal.SIGTERM


def main(arguments: list[str]) -> int:
    """Run the job in the directory given; return the exit status."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        sys.stderr.write("usage: python -m tasks.training JOB_DIR\n")
        return 2
    folder = Path(arguments[0])
    signal.signal(signal.SIGTERM, _stop)
    _die_with_supervisor()
    (folder / "result.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    result = carry_out(folder)
    # From here on the work is done: a late SIGTERM must not leave a result and status 143.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write_result(folder, result)
    return 0


def carry_out(folder: Path) -> dict[str, Any]:
    """Do the job in this process and return its result, also where it failed for a known reason."""
    # cuBLAS reads this once, when torch first uses the GPU; without it sums vary from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # oneDNN keeps what it made for each shape of batch, 1024 unless told: memory that buys no time.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
    import app.lm  # noqa: F401, I001 - its setting for OpenMP must precede torch
    import torch

    from tasks.training.run import run

    events = Events(folder)
    try:
        job = read_job(folder)
        torch.set_num_threads(job.head.threads)
        # A GPU lacks a few deterministic kernels: it warns there and goes on.
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        return run(job, events)
    except TrainingError as error:
        known = {"type": error.type, "detail": error.detail, "fact_ids": error.fact_ids}
        return {"status": "failed", "error": known}
    finally:
        events.close()


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
    sys.exit(main(sys.argv[1:]))
