from app.models.access import Audit, Idempotency, Key
from app.models.base import Base
from app.models.checkpoints import Activation, Checkpoint, Proof, is_lost
from app.models.facts import IS_LIVE, IS_WAITING, LIVE, Fact, Probe
from app.models.feedback import Feedback
from app.models.updates import Event, Update, UpdateFact, WorkerSeen

__all__ = [
    "IS_LIVE",
    "IS_WAITING",
    "LIVE",
    "Activation",
    "Audit",
    "Base",
    "Checkpoint",
    "Event",
    "Fact",
    "Feedback",
    "Idempotency",
    "Key",
    "Probe",
    "Proof",
    "Update",
    "UpdateFact",
    "WorkerSeen",
    "is_lost",
]
