"""API keys, for administrators."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from app.deps import CallersDep, OnceDep, ReaderDep, SessionDep, after_commit, needs
from app.schemas.common import ListOf, PageQuery
from app.schemas.keys import KeyIn, KeyOut, NewKey
from app.services import keys
from app.services.audit import Actor

router = APIRouter(tags=["keys"])
Admin = Annotated[Actor, Depends(needs("admin"))]


@router.post("/keys", status_code=201, response_model=NewKey)
def create_key(body: KeyIn, session: SessionDep, actor: Admin, once: OnceDep) -> Response:
    """Make a key; its secret is in this answer only, not in a replayed one."""

    def work() -> tuple[int, NewKey]:
        key, secret = keys.create(session, actor, body.name, body.scopes, body.expires_at)
        return 201, NewKey(**KeyOut.model_validate(key).model_dump(), secret=secret)

    return once(work, hide=frozenset({"secret"}))


@router.get("/keys", dependencies=[Depends(needs("admin"))])
def list_keys(query: Annotated[PageQuery, Query()], session: ReaderDep) -> ListOf[KeyOut]:
    """List keys, revoked ones included, newest first."""
    rows, has_more = keys.list_keys(session, query.page())
    return ListOf(data=[KeyOut.model_validate(row) for row in rows], has_more=has_more)


@router.delete("/keys/{key_id}")
def revoke_key(key_id: str, session: SessionDep, actor: Admin, callers: CallersDep) -> KeyOut:
    """Revoke a key from now on; other API processes know it within a second."""
    after_commit(session, callers.forget)
    return KeyOut.model_validate(keys.revoke(session, actor, key_id))
