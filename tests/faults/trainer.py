"""The fake trainer, which can die at crash points, and takes a random moment longer."""

import json
import random
import sys
import time
from pathlib import Path

from tests.faults.planting import plant
from tests.worker import fake_trainer

LONGEST_S = 0.3

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    plant(Path(json.loads((folder / "job.json").read_text())["store"]))
    time.sleep(random.random() * LONGEST_S)
    fake_trainer.main(folder)
