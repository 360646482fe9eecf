"""Result cards over HTTP: signed by the key that the service publishes."""

import base64
import hashlib

from cryptography.hazmat.primitives import serialization

from tests.support.api import Api
from tests.support.core import ENVIRONMENT, job_id_of, make_point, note


def test_a_card_is_signed_by_the_published_key_and_hashes_the_csv(any_api: Api) -> None:
    claimed = any_api.core.run()
    point = make_point("test/error", 20, 2.5).model_dump(mode="json")
    any_api.report(claimed, 2, environment=ENVIRONMENT, metrics=[point])
    any_api.checkpoint(claimed, 3, note(20, test_error=2.5))
    path = f"/v1/jobs/{job_id_of(claimed)}/result-card"

    refused = any_api.get(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")

    result = {"train_error": 0.5, "test_error": 2.5, "training_seconds": 40.0}
    any_api.attempt(claimed, "POST", "/finish", json={"reason": "completed", "result": result})
    response = any_api.get(path)
    assert response.status_code == 200
    key = any_api.get("/v1/signing-key").json()
    document = response.json()
    assert document["signature"]["key_fingerprint"] == key["fingerprint"]
    public_key = serialization.load_pem_public_key(key["public_key"].encode())
    # The signed bytes are a part of the response.
    signed = response.content.removeprefix(b'{"card":').rpartition(b',"signature":')[0]
    value = base64.b64decode(document["signature"]["value"])
    public_key.verify(value, signed)  # type: ignore[call-arg, union-attr]

    csv = any_api.get(f"/v1/jobs/{job_id_of(claimed)}/metrics?format=csv").content
    assert document["card"]["metrics"]["sha256"] == hashlib.sha256(csv).hexdigest()
