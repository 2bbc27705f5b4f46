"""Celery's tasks: shells around what does the work."""

from collections.abc import Callable

from celery import Celery

from app.queue import RUN_UPDATE


def register(celery: Celery, run_update: Callable[[str], None]) -> None:
    """Add the tasks to the worker's app."""
    # Celery would share it with every other app in this process.
    celery.task(run_update, name=RUN_UPDATE, shared=False)
