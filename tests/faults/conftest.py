"""Deployments to be broken, and the figures that breaking them gave."""

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import REDIS
from tests.worker.conftest import Deployment, deploy
from tests.worker.conftest import engine_url as engine_url

SCALE = float(os.environ.get("FAULT_SCALE", "1"))
FIGURES = pytest.StashKey[list[str]]()


def sized(count: int) -> int:
    """Return this many, or less in a smaller run (FAULT_SCALE)."""
    return max(1, round(count * SCALE))


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Notes a figure that is shown at the end."""
    kind = request.node.name.partition("[")[2].rstrip("]")
    stash = request.config.stash
    return lambda figure: stash.setdefault(FIGURES, []).append(f"{kind or '-'}: {figure}")


def pytest_terminal_summary(terminalreporter, config) -> None:
    if figures := config.stash.get(FIGURES, []):
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.line(line)


@pytest.fixture(params=["sqlite+files", "postgres+redis"])
def deployment(
    request: pytest.FixtureRequest, engine_url: str, tmp_path: Path
) -> Iterator[Deployment]:
    """A deployment of each of the two kinds whose workers can be struck at crash points."""
    database, broker = request.param.split("+")
    url = request.getfixturevalue(f"{database}_url")
    redis = f"{REDIS}/{1 + secrets.randbelow(15)}"
    address = "filesystem://" if broker == "files" else redis
    for deployment in deploy(url, address, engine_url, tmp_path):
        deployment.app = "tests.faults.worker"
        yield deployment
