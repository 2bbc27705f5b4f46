"""Starts a run's processes, where its recipe asks for several devices, by torchrun."""

import os
import signal
import sys
from pathlib import Path

from tasks.training.errors import LAUNCHER, BadJob
from tasks.training.job import read_head, write_result


def devices_of(folder: Path) -> int:
    """Return how many devices the job asks for; 1 where it can't be read, which a run will tell."""
    try:
        return read_head(folder).recipe.devices
    except BadJob:
        return 1


def launch(folder: Path, devices: int) -> int:
    """Run the job in so many processes; return the exit status, 0 exactly where a result is there.

    They are this process's children, and the kernel kills them when it dies.
    """
    import app.lm  # noqa: F401, I001 - its setting for OpenMP must precede torch
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    from app.lm.loading import pick_device

    on_cpu = pick_device(read_head(folder).recipe.device) == "cpu"
    most = (os.cpu_count() or 1) if on_cpu else torch.cuda.device_count()
    if devices > most:  # refused before so many processes fill the memory of all
        detail = f"The recipe asks for {devices} devices, this machine has {most}."
        known = {"type": BadJob.type, "detail": detail, "fact_ids": []}
        write_result(folder, {"status": "failed", "error": known})
        return 0
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # else torchrun warns; each run sets its own
    logs = str(folder / "ranks")  # else they stay behind in the system's temporary folder
    start = ["--standalone", f"--nproc-per-node={devices}", f"--log-dir={logs}"]
    status = 1
    try:
        torchrun([*start, "-m", "tasks.training", str(folder)])
    except ChildFailedError as error:
        sys.stderr.write(f"{error.get_first_failure()[1].message}\n")
    except SignalException as stopped:
        status = 128 + signal.Signals(stopped.sigval).value
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # late: the work is done
    return 0 if (folder / "result.json").exists() else status
