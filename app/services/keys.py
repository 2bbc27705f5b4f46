"""API keys: made, listed, revoked, and the callers they name."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import utc_now
from app.errors import Conflict, NotFound, Unauthorized
from app.ids import new_id
from app.models import Key
from app.services import audit
from app.services.audit import Actor
from app.services.pages import Page, fetch_page

Scope = Literal[
    "facts:write",
    "facts:read",
    "updates:write",
    "updates:read",
    "checkpoints:read",
    "checkpoints:write",
    "qa",
    "admin",
]
_SECRET = re.compile(r"alm_([0-9a-z]{24})_[0-9a-f]{64}")


def create(
    session: Session,
    actor: Actor,
    name: str,
    scopes: Sequence[Scope],
    expires_at: datetime | None = None,
) -> tuple[Key, str]:
    """Make a key and return it with its secret, which can never be read again."""
    key = Key(name=name, scopes=sorted(set(scopes)), expires_at=expires_at, digest="")
    key.id = new_id("key")
    secret = f"alm_{key.id.removeprefix('key_')}_{secrets.token_hex(32)}"
    key.digest = _digest(secret)
    session.add(key)
    session.flush()
    after = {"name": name, "scopes": key.scopes}
    audit.record(session, actor, "key.create", key.id, after=after)
    return key, secret


def authenticate(session: Session, secret: str) -> Actor:
    """Name the caller that holds this secret, or raise Unauthorized."""
    match = _SECRET.fullmatch(secret)
    key = session.get(Key, f"key_{match[1]}") if match else None
    if key is None or not hmac.compare_digest(key.digest, _digest(secret)):
        raise Unauthorized
    if key.revoked_at:
        raise Unauthorized("This API key has been revoked.")
    if key.expires_at and key.expires_at <= utc_now():
        raise Unauthorized("This API key has expired.")
    return Actor(key.name, key.id, frozenset(key.scopes))


def list_keys(session: Session, page: Page) -> tuple[Sequence[Key], bool]:
    """Return one page of keys, revoked ones included, and whether there are more."""
    return fetch_page(session, Key, page)


def revoke(session: Session, actor: Actor, key_id: str) -> Key:
    """Revoke a key from now on; a second time changes nothing.

    Raises `Conflict` for the last admin key that opens anything: nobody could make another.
    """
    now = utc_now()
    valid = select(Key).where(
        Key.revoked_at.is_(None), Key.expires_at.is_(None) | (Key.expires_at > now)
    )
    # All locked, in order: of two admin keys revoked at once the second sees the first gone. Rows
    # that only refer to a key needn't wait.
    locked = session.scalars(valid.order_by(Key.id).with_for_update(key_share=True)).all()
    key = session.get(Key, key_id)
    if key is None:
        raise NotFound(f"There is no key {key_id}.")
    if [other.id for other in locked if "admin" in other.scopes] == [key_id]:
        raise Conflict("This is the last valid key with the scope `admin`: make another one first.")
    if key.revoked_at is None:
        key.revoked_at = now
        audit.record(session, actor, "key.revoke", key.id)
    return key


def _digest(secret: str) -> str:
    # A plain hash is enough: the secret has 256 random bits, nothing to guess.
    return hashlib.sha256(secret.encode()).hexdigest()
