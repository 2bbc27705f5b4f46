from collections.abc import Callable, Iterator

import pytest

from tests.cli.service import Reply, Service


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    """Start scripted services that end with the test."""
    started: list[Service] = []

    def start(*replies: Reply) -> Service:
        started.append(Service(list(replies)))
        return started[-1]

    yield start
    for service in started:
        service.server.shutdown()
        service.server.server_close()
