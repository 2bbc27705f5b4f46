"""AlmanacClient: each call is one request, or one list read page by page."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from app.client import events
from app.client.models import (
    Activation,
    Answer,
    BatchItem,
    Checkpoint,
    Difference,
    Event,
    Fact,
    Key,
    Proof,
    Update,
    Wire,
)
from app.client.transport import Transport, connect

Item = TypeVar("Item", bound=Wire)
PAGE = 100


class AlmanacClient:
    """A connection to one service; safe to share between threads. Every call may raise ApiError.

    Made with a URL or key that can't be one, it raises ValueError.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = connect(url, key, timeout=timeout_s, transport=transport)
        self._transport = Transport(self._http, sleep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # Facts

    def add_fact(self, fact: Mapping[str, Any]) -> Fact:
        """Submit one fact, in the shape of ``POST /v1/facts``; a known one comes back as it is."""
        return Fact.model_validate(self._post("/v1/facts", fact))

    def add_facts(self, facts: Sequence[Mapping[str, Any]]) -> list[BatchItem]:
        """Submit up to 1,000 facts; each stands or falls on its own."""
        found = self._post("/v1/facts/batch", {"facts": list(facts)})
        return [BatchItem.model_validate(item) for item in found["data"]]

    def add_examples(self, examples: Sequence[Mapping[str, Any]]) -> list[BatchItem]:
        """Submit up to 1,000 examples, in the shape of ``POST /v1/examples/batch``."""
        found = self._post("/v1/examples/batch", {"examples": list(examples)})
        return [BatchItem.model_validate(item) for item in found["data"]]

    def get_fact(self, fact_id: str) -> Fact:
        """Read one fact."""
        return Fact.model_validate(self._get(f"/v1/facts/{fact_id}"))

    def list_facts(self, status: str | None = None) -> Iterator[Fact]:
        """Yield facts, newest first."""
        return self._list("/v1/facts", Fact, status=status)

    def delete_fact(self, fact_id: str) -> None:
        """Retract a fact."""
        self._transport.request("DELETE", f"/v1/facts/{fact_id}")

    def get_proofs(self, fact_id: str) -> list[Proof]:
        """Read what each version answered to the fact's probes."""
        return list(self._list(f"/v1/facts/{fact_id}/proofs", Proof))

    # Updates

    def start_update(
        self,
        *,
        fact_ids: Sequence[str] | None = None,
        recipe: Mapping[str, Any] | None = None,
        activation: str = "auto",
    ) -> Update:
        """Start learning these facts, or all waiting ones; a live update may come back instead."""
        body = {"fact_ids": fact_ids, "recipe": recipe, "activation": activation}
        return Update.model_validate(self._post("/v1/updates", _given(body)))

    def start_rebuild(self, *, activation: str = "auto") -> Update:
        """Start the rebuild that takes what was withdrawn out of the weights."""
        body = {"kind": "rebuild", "activation": activation}
        return Update.model_validate(self._post("/v1/updates", body))

    def start_consolidation(self, *, activation: str = "auto") -> Update:
        """Start merging the current adapter into its root."""
        body = {"kind": "consolidate", "activation": activation}
        return Update.model_validate(self._post("/v1/updates", body))

    def get_update(self, update_id: str) -> Update:
        """Read one update."""
        return Update.model_validate(self._get(f"/v1/updates/{update_id}"))

    def list_updates(self, status: str | None = None) -> Iterator[Update]:
        """Yield updates, newest first."""
        return self._list("/v1/updates", Update, status=status)

    def cancel_update(self, update_id: str) -> Update:
        """Ask an update to stop; its facts wait again."""
        return Update.model_validate(self._post(f"/v1/updates/{update_id}/cancel", {}))

    def follow_update(self, update_id: str) -> Iterator[Event]:
        """Yield what an update reports, from its start until it is finished."""
        path, after = f"/v1/updates/{update_id}/events", 0
        while True:
            for event in events.stream(self._transport, path, after):
                after = event.id
                yield event
            # A service that shuts down ends its streams too.
            if self.get_update(update_id).is_finished:
                return
            self._transport.sleep(0.5)

    def wait_for_update(
        self, update_id: str, on_event: Callable[[Event], object] | None = None
    ) -> Update:
        """Wait until an update is finished, telling each event on the way."""
        for event in self.follow_update(update_id):
            if on_event:
                on_event(event)
        return self.get_update(update_id)

    # Checkpoints and what is current

    def get_checkpoint(self, version: int) -> Checkpoint:
        """Read one version."""
        return Checkpoint.model_validate(self._get(f"/v1/checkpoints/{version}"))

    def list_checkpoints(self) -> Iterator[Checkpoint]:
        """Yield versions, newest first."""
        return self._list("/v1/checkpoints", Checkpoint, cursor="version")

    def diff(self, version: int, against: int | None = None) -> Iterator[Difference]:
        """Yield what a version answers differently than another one, its parent unless said."""
        path, after = f"/v1/checkpoints/{version}/diff", None
        # A page takes as long as all its questions.
        patient = httpx.Timeout(**{**self._http.timeout.as_dict(), "read": None})
        while True:
            given = _given({"against": against, "after": after})
            page = self._transport.request("GET", path, params=given, timeout=patient)
            yield from map(Difference.model_validate, page["data"])
            if not page["has_more"]:
                return
            after = page["last"]

    def activate(
        self, version: int, reason: str, *, expected_current: int | None = None
    ) -> Activation:
        """Make a version current."""
        body = _given({"reason": reason, "expected_current": expected_current})
        found = self._post(f"/v1/checkpoints/{version}/activate", body)
        return Activation.model_validate(found)

    def rollback(
        self, reason: str, *, to: int | None = None, expected_current: int | None = None
    ) -> Activation:
        """Go back to a version; without ``to``, to the one that the last activation replaced."""
        body = _given({"reason": reason, "to": to, "expected_current": expected_current})
        return Activation.model_validate(self._post("/v1/rollback", body))

    def list_activations(self) -> Iterator[Activation]:
        """Yield what was current, newest first."""
        return self._list("/v1/activations", Activation)

    # Answers

    def ask(
        self,
        question: str,
        *,
        version: int | None = None,
        overlay: bool | None = None,
        max_tokens: int | None = None,
    ) -> Answer:
        """Ask the current version, or the one named."""
        body = {"question": question, "version": version, "overlay": overlay}
        found = self._post("/v1/qa", _given({**body, "max_tokens": max_tokens}))
        return Answer.model_validate(found)

    # Keys

    def create_key(self, name: str, scopes: Sequence[str]) -> Key:
        """Make a key; its secret can't be read again."""
        return Key.model_validate(self._post("/v1/keys", {"name": name, "scopes": list(scopes)}))

    def list_keys(self) -> Iterator[Key]:
        """Yield keys, newest first."""
        return self._list("/v1/keys", Key)

    def revoke_key(self, key_id: str) -> None:
        """Revoke a key from now on."""
        self._transport.request("DELETE", f"/v1/keys/{key_id}")

    def _get(self, path: str, **params: Any) -> Any:
        return self._transport.request("GET", path, params=_given(params))

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        # With its own key a POST that a 503 put off is done once, whatever happened to the first.
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return self._transport.request("POST", path, json=body, headers=headers)

    def _list(
        self, path: str, kind: type[Item], *, cursor: str = "id", **params: Any
    ) -> Iterator[Item]:
        after = None
        while True:
            page = self._get(path, limit=PAGE, after=after, **params)
            yield from map(kind.model_validate, page["data"])
            if not page["has_more"]:
                return
            after = page["data"][-1][cursor]


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
