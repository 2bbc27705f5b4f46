"""The broker: Celery's settings, and the poke that says which update to look at.

A poke only spares the worker's next look at the database; losing or doubling one is harmless.
"""

import logging
from functools import cache
from pathlib import Path
from queue import Empty
from typing import Any

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES, filesystem

from app.config import Settings

RUN_UPDATE = "almanac.run_update"
# One short try: no request waits for a broker that is down.
HASTE = {
    "max_retries": 1,
    "interval_start": 0,
    "socket_connect_timeout": 0.4,
    "socket_timeout": 0.4,
}
log = logging.getLogger(__name__)


class Channel(filesystem.Channel):  # type: ignore[misc]
    """Kombu's queue in files, where a wiped folder is an empty queue and half a message none.

    Kombu lets both errors through, and Celery's worker ends on them.
    """

    def _get(self, queue: str) -> Any:
        try:
            return super()._get(queue)
        except (OSError, ValueError) as error:
            log.warning("the broker's folder: %r", error)
            raise Empty from error

    def _queue_bind(self, exchange: str, *binding: str) -> None:
        try:
            super()._queue_bind(exchange, *binding)
        except ValueError as error:  # half a file is left of a machine that lost its power
            log.warning("the broker's folder: %r", error)
            self._exchange_file(exchange).unlink(missing_ok=True)
            super()._queue_bind(exchange, *binding)


class Files(filesystem.Transport):  # type: ignore[misc]
    """Kombu's filesystem transport with the channel above."""

    Channel = Channel


TRANSPORT_ALIASES["files"] = f"{__name__}:Files"


def create_celery(broker: str, data_dir: Path, transport: dict[str, Any] | None = None) -> Celery:
    """Make a Celery app over this broker, with more options for its transport where given."""
    options = {**_folders(broker, data_dir), **(transport or {})}
    # Kombu warns of a URL without a host, which means nothing to files.
    url = "files://localhost" if _is_files(broker) else broker
    celery = Celery("almanac", broker=url, set_as_current=False)
    celery.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_default_queue="almanac",
        # The lease is in the row, so a message has done its duty once it was read.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=not _is_files(broker),  # kombu can do this on Redis only
        worker_pool="threads",
        worker_concurrency=1,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=options,
    )
    return celery


def poke(settings: Settings, update_id: str) -> None:
    """Tell a worker to look at an update, after commit; a failed send is logged, never raised."""
    try:
        _folders(settings.broker, settings.data_dir)  # wiped meanwhile: made again
        sender = _sender(settings.broker, settings.data_dir)
        sender.send_task(RUN_UPDATE, [update_id], retry=False)
    except Exception as error:  # whatever a broker's client raises: the worker looks for itself
        log.warning("can't poke a worker for %s: %r", update_id, error)


@cache
def _sender(broker: str, data_dir: Path) -> Celery:
    return create_celery(broker, data_dir, HASTE)


def _folders(broker: str, data_dir: Path) -> dict[str, Any]:
    """Make the filesystem transport's folders and return its options; none for another broker."""
    if not _is_files(broker):
        return {}
    folder = data_dir.absolute() / "broker"
    for name in ("messages", "control"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    messages = str(folder / "messages")
    return {
        "data_folder_in": messages,
        "data_folder_out": messages,
        "control_folder": str(folder / "control"),
        "polling_interval": 0.25,
    }


def _is_files(broker: str) -> bool:
    return broker.startswith("filesystem")
