"""The real worker with the fake trainer: ``celery -A fake_worker worker``."""

import sys
from pathlib import Path

from app.config import Settings
from tasks.worker import create_worker

TRAINER = [sys.executable, str(Path(__file__).with_name("fake_trainer.py"))]
app = create_worker(Settings(), TRAINER)
