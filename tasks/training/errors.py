"""Errors that end a run with a typed result instead of a traceback; bugs are not among them."""

from collections.abc import Sequence

# The variable that tells each process who started it: it may die before they can ask.
LAUNCHER = "TRAINING_LAUNCHER"


class TrainingError(Exception):
    """The run can't give a checkpoint, and the reason can be told."""

    type = "training"

    def __init__(self, detail: str, fact_ids: Sequence[str] = ()) -> None:
        self.detail = detail
        self.fact_ids = list(fact_ids)
        super().__init__(detail)


class BadJob(TrainingError):
    """The job directory can't be read as what it should be."""

    type = "bad_job"


class OnlyAsked(TrainingError):
    """Every fact is an example whose prompt is somebody's exam."""

    type = "only_asked"


class Diverged(TrainingError):
    """The loss stopped being a finite number."""

    type = "diverged"

    def __init__(self, step: int, fact_ids: Sequence[str]) -> None:
        self.step = step
        super().__init__(f"The loss of step {step} is not a finite number.", fact_ids)


class TooLong(TrainingError):
    """A statement doesn't fit the model's context in masked and recovered form."""

    type = "too_long"


class OutOfMemory(TrainingError):
    """The device has too little memory for this model and recipe."""

    type = "out_of_memory"


class BadParent(TrainingError):
    """The checkpoint to start from is missing, corrupt or of no use for this job."""

    type = "bad_parent"
