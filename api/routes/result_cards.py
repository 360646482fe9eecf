"""Result cards: signed descriptions of finished trainings, and the key that signs them."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from pydantic import Field

from api import problems
from api.dependencies import ReadSession, ServicesDep, authorize
from api.views import View
from service.errors import Conflict, NotFound
from service.jobs import result_cards
from service.specs.result_card import SignedResultCard

router = APIRouter(prefix="/v1", tags=["result cards"], dependencies=[Depends(authorize)])


class SigningKeyView(View):
    algorithm: str
    public_key: Annotated[str, Field(description="in PEM")]
    fingerprint: Annotated[
        str, Field(description="SHA-256 of the public key in DER (SubjectPublicKeyInfo), as hex")
    ]


@router.get("/signing-key")
def get_signing_key(services: ServicesDep) -> SigningKeyView:
    """The public key that verifies the result cards of this service."""
    key = services.signing_key
    return SigningKeyView(
        algorithm="Ed25519", public_key=key.public_key, fingerprint=key.fingerprint
    )


@router.get(
    "/jobs/{job_id}/result-card",
    response_model=SignedResultCard,
    responses=problems.responses(NotFound, Conflict),
)
def get_result_card(job_id: str, session: ReadSession, services: ServicesDep) -> Response:
    """What a completed training was, on what it ran, and what it attained; signed.

    Canonical JSON (RFC 8785): an unchanged job has the same card, byte for byte.
    """
    card = result_cards.build_result_card(session, job_id)
    content = result_cards.sign_result_card(card, services.signing_key)
    return Response(content, media_type="application/json")
