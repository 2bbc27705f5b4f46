"""``python -m tasks.training`` as a process: its exit status, its signals, its death."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.conftest import MakeJob

ROOT = Path(__file__).parents[2]
LONG = 1_000_000  # epochs


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tasks.training", str(folder)], cwd=ROOT)


def wait_for_step(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Return once the trainer has told of a training step; fail if it ends before."""
    wait_for_file(folder / "events.jsonl", process, '"step"')


def wait_for_file(path: Path, process: subprocess.Popen[bytes], text: str = "") -> None:
    """Return once the trainer has written a file, and that into it; fail if it ends before."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the trainer ended"
        if path.exists() and (not text or text in path.read_text()):
            return
        time.sleep(0.05)
    pytest.fail(f"the trainer wrote no {text} into {path.name} within a minute")


def test_a_run_exits_with_zero_and_a_result(make_job: MakeJob) -> None:
    folder = make_job()
    (folder / "result.json").write_text("an earlier run's")
    (folder / "checkpoint").mkdir()
    assert start(folder).wait(timeout=60) == 0
    assert json.loads((folder / "result.json").read_text())["status"] == "succeeded"


def test_sigterm_stops_it_without_a_result(make_job: MakeJob) -> None:
    folder = make_job(epochs=LONG)
    process = start(folder)
    wait_for_step(folder, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 143
    assert not (folder / "result.json").exists()
    assert not (folder / "checkpoint").exists()


def test_events_come_at_most_once_a_second(make_job: MakeJob) -> None:
    folder = make_job(epochs=LONG)
    process = start(folder)
    wait_for_step(folder, process)
    started = time.monotonic()
    lines = len((folder / "events.jsonl").read_text().splitlines())
    while time.monotonic() < started + 2.5:
        time.sleep(0.1)
    more = (folder / "events.jsonl").read_text().splitlines()[lines:]
    process.kill()
    process.wait()
    assert 1 <= len(more) <= 3
    assert {"step", "total_steps", "loss", "lr", "tokens_per_s", "recall", "eta_s"} < set(
        json.loads(more[0])
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_it_dies_with_its_supervisor(make_job: MakeJob) -> None:
    folder = make_job(epochs=LONG)
    lines = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True)"
    command = [sys.executable, "-c", lines + "; p.wait()", sys.executable]
    supervisor = subprocess.Popen(
        [*command, "-m", "tasks.training", str(folder)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert supervisor.stdout is not None
    trainer = int(supervisor.stdout.readline())
    supervisor.stdout.close()
    wait_for_step(folder, supervisor)
    supervisor.kill()
    supervisor.wait()
    deadline = time.monotonic() + 5
    while _lives(trainer) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(trainer)


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    assert start(tmp_path / "nowhere").wait(timeout=60) == 2


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie waits for its new parent to notice
