"""The worker: ``celery -A tasks.worker worker --pool threads -c 1``, one per trainer slot."""

import os
import socket
import threading
from collections.abc import Sequence
from typing import Any

from celery import Celery, bootsteps, signals

from app.config import Settings
from app.db import Database
from app.queue import create_celery
from tasks import jobs
from tasks.dispatcher import Dispatcher, Slot
from tasks.supervisor import TRAINER, Supervisor


def create_worker(settings: Settings, trainer: Sequence[str] = TRAINER) -> Celery:
    """Build the worker's Celery app; its tick starts with the worker, broker or no broker."""
    celery = create_celery(settings.broker, settings.data_dir)
    database, stop = Database(settings.database), threading.Event()
    owner = f"{socket.gethostname()}-{os.getpid()}"
    slot = Slot(Supervisor(database, settings, owner, stop, trainer))
    dispatcher = Dispatcher(database, settings, owner, slot)
    jobs.register(celery, slot.run_update)

    class Tick(bootsteps.StartStopStep):
        """Runs the dispatcher beside Celery's consumer, which waits for the broker for ever."""

        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            """Start ticking."""
            del worker
            self.thread = threading.Thread(target=dispatcher.run, args=[stop], daemon=True)
            self.thread.start()

        def stop(self, worker: Any) -> None:
            """Stop ticking and wait until the running update is given back."""
            del worker
            stop.set()
            self.thread.join()
            slot.wait()
            database.close()

    celery.steps["worker"].add(Tick)
    # At once: Celery gets to its steps only when its wait for the broker is over, seconds later.
    signals.worker_shutting_down.connect(lambda **_: stop.set(), weak=False)
    return celery


app = create_worker(Settings())
