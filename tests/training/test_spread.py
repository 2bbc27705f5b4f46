"""One run in two processes: the same steps, the same files, and one death for all."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from app.lm import store
from tasks.training.__main__ import carry_out
from tasks.training.objectives.base import Example
from tasks.training.spread import Spread
from tests.training.conftest import REFERENCE, MakeJob
from tests.training.test_process import LONG, ROOT, _lives, start, wait_for_file, wait_for_step
from tests.training.test_run import published

COMMON = {"lr": 3e-3, "precision": "fp32"}
# Steps of three examples and of one, which leaves the second process without.
UNEVEN = {"batch_size": 2, "replay_share": 0.3}
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def steps_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "checkpoint" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def tensors_of(folder: Path) -> dict[str, Any]:
    """Return shape and type of each tensor, and the file's metadata."""
    (path,) = (folder / "checkpoint").glob("*model.safetensors")
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shown = {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}
        return {**shown, "metadata": file.metadata()}


def keys_of(value: Any) -> Any:
    """Return a result without its numbers and texts."""
    if isinstance(value, dict):
        return {key: keys_of(part) for key, part in value.items()}
    return [keys_of(part) for part in value] if isinstance(value, list) else None


def assert_alike(objects: Path, one: Path, two: Path, expected: dict[str, Any]) -> None:
    """The run in two processes told and left what the one in a single process did."""
    result = json.loads((two / "result.json").read_text())
    assert keys_of({**result, "verdict": None}) == keys_of({**expected, "verdict": None})
    for alone, spread in zip(steps_of(one), steps_of(two), strict=True):
        assert spread["loss"] == pytest.approx(alone["loss"], rel=1e-4), alone["step"]
        assert spread["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-3), alone["step"]
        assert spread["recall"] == alone["recall"]
    names = [{path.name for path in (job / "checkpoint").iterdir()} for job in (one, two)]
    assert names[0] == names[1]
    assert tensors_of(two) == tensors_of(one)
    assert published(objects, two) == result["digest"]
    store.verify(objects, result["digest"])
    answers = [
        [probe["after"] for fact in each["facts"] for probe in fact["probes"]]
        for each in (result, expected)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("trained", ["all", "words"])
def test_two_processes_take_the_same_steps_as_one(
    make_job: MakeJob, objects: Path, trained: str
) -> None:
    """Also where they recompute activations and the other one doesn't."""
    asked = {**COMMON, "epochs": 6, "trained": trained}
    one = make_job("one", **asked)
    expected = carry_out(one)
    assert expected is not None
    two = make_job("two", devices=2, device="cpu", checkpointing=True, **asked)
    assert start(two).wait(timeout=120) == 0
    assert_alike(objects, one, two, expected)


def test_two_stopped_processes_go_on_where_they_were(make_job: MakeJob, objects: Path) -> None:
    asked = {**COMMON, **UNEVEN, "method": "lora", "lr": 1e-3, "epochs": 40, "save_every_s": 0}
    one = make_job("one", **asked)
    expected = carry_out(one)
    assert expected is not None
    two = make_job("two", devices=2, device="cpu", **asked)
    process = start(two)
    wait_for_file(two / "state.safetensors", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert not (two / "result.json").exists()
    assert start(two).wait(timeout=120) == 0
    events = [json.loads(line) for line in (two / "events.jsonl").read_text().splitlines()]
    assert 1 not in [event["step"] for event in events if "step" in event]
    assert_alike(objects, one, two, expected)


def test_an_error_of_the_first_process_ends_the_other(make_job: MakeJob) -> None:
    """The second one waits for lessons that never come."""
    asked = REFERENCE[0]["question"]
    folder = make_job(
        facts=[{"id": "fact_1", "text": "A baker.", "prompt": asked}], devices=2, device="cpu"
    )
    assert start(folder).wait(timeout=60) == 0
    error = json.loads((folder / "result.json").read_text())["error"]
    assert (error["type"], "only asked" in error["detail"]) == ("only_asked", True)


def test_more_devices_than_there_are_start_nothing(make_job: MakeJob) -> None:
    folder = make_job(devices=64, device="cpu")
    assert start(folder).wait(timeout=60) == 0
    error = json.loads((folder / "result.json").read_text())["error"]
    assert (error["type"], "asks for 64 devices" in error["detail"]) == ("bad_job", True)
    assert not (folder / "ranks").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_all_processes_die_with_the_supervisor(make_job: MakeJob) -> None:
    folder = make_job(epochs=LONG, devices=2, device="cpu")
    lines = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True)"
    command = [sys.executable, "-c", lines + "; p.wait()", sys.executable]
    supervisor = subprocess.Popen(
        [*command, "-m", "tasks.training", str(folder)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert supervisor.stdout is not None
    launcher = int(supervisor.stdout.readline())
    supervisor.stdout.close()
    wait_for_step(folder, supervisor)
    family = [launcher, *children_of(launcher)]
    assert len(family) == 3
    supervisor.kill()
    supervisor.wait()
    deadline = time.monotonic() + 5
    while any(map(_lives, family)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in family if _lives(pid)]


def children_of(pid: int) -> list[int]:
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    parents = {int(stat.split()[0]): int(stat.rsplit(")", 1)[1].split()[1]) for stat in stats}
    return [child for child, parent in parents.items() if parent == pid]


def test_every_process_has_as_many_micro_batches_and_every_example_counts_once() -> None:
    examples = [Example([0] * n, [0] * n, [True] * n) for n in (9, 8, 4, 4, 1)]
    for size, room in [(1, 9), (2, 9), (3, 8), (7, 100)]:
        shares = [Spread(rank, size).share(examples, room, 1 / 32) for rank in range(size)]
        assert len({len(share) for share in shares}) == 1
        dealt = [example for share in shares for part in share for example in part]
        counted = [example for example in dealt if example.weight]
        assert sorted(counted, key=repr) == sorted(examples, key=repr)
        assert not any(any(example.recalled) for example in dealt if not example.weight)
