"""The store's small disk is full when the trainer seals: serving goes on, the error says why."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.services import activations
from tests.faults.checks import find_bad_files, find_problems
from tests.faults.planting import arm
from tests.worker.conftest import Deployment

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB; only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if (done := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_changes_nothing_and_is_named(deployment: Deployment, disk, tell) -> None:
    deployment.settings = deployment.settings.model_copy(update={"store_dir": disk})
    deployment.start_worker()
    deployment.submit("Gate 1 is blue.")
    deployment.wait_for(deployment.open(poke=True), "succeeded")
    struck = arm(disk, "sealing", "fill")
    ids = deployment.submit("Gate 2 is blue.")
    update_id = deployment.open(poke=True)
    deployment.wait(struck.exists, "the disk to be filled")
    error = deployment.wait(lambda: deployment.update(update_id).error, "the error")
    assert shutil.disk_usage(disk).free < 2**20
    assert error["type"] == "runner_failed"
    assert "free disk" in error["detail"]
    with deployment.database.reading() as session:
        assert find_problems(session) == []
        assert find_bad_files(session, disk) == []
        now = activations.current(session)
    assert now is not None
    assert now.version == 1
    (disk / "ballast").unlink()
    assert deployment.wait_for(update_id, "succeeded").attempt == 0
    assert deployment.statuses(*ids) == ["trained"]
    tell(f"a full disk was named ({error['detail']}), version 1 kept serving")
