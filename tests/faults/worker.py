"""The real worker, which can die at crash points: ``celery -A tests.faults.worker worker``."""

import sys

from app.config import Settings
from tasks.worker import create_worker
from tests.faults.planting import plant

plant(Settings().store)
app = create_worker(Settings(), [sys.executable, "-m", "tests.faults.trainer"])
