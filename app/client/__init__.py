"""A typed client for Almanac's HTTP API; it needs httpx and pydantic, nothing of the server."""

from app.client.client import AlmanacClient
from app.client.models import (
    Activation,
    Answer,
    BatchItem,
    Checkpoint,
    Difference,
    Event,
    Example,
    Fact,
    Key,
    Probe,
    Progress,
    Proof,
    Update,
)
from app.client.transport import ApiError

__all__ = [
    "Activation",
    "AlmanacClient",
    "Answer",
    "ApiError",
    "BatchItem",
    "Checkpoint",
    "Difference",
    "Event",
    "Example",
    "Fact",
    "Key",
    "Probe",
    "Progress",
    "Proof",
    "Update",
]
