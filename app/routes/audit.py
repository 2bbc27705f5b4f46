"""The audit trail, for administrators."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app.deps import ReaderDep, needs
from app.schemas.audit import AuditOut, AuditQuery
from app.schemas.common import ListOf
from app.services import audit

router = APIRouter(tags=["audit"])


@router.get("/audit", dependencies=[Depends(needs("admin"))])
def list_audit(query: Annotated[AuditQuery, Query()], session: ReaderDep) -> ListOf[AuditOut]:
    """List who did what, newest first."""
    rows, has_more = audit.list_acts(
        session, query.page(), actor=query.actor, act=query.act, subject=query.subject
    )
    return ListOf(data=[AuditOut.model_validate(row) for row in rows], has_more=has_more)
