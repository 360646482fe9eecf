"""Routes of alerts."""

import pytest

from tests.support.api import Api

SPEC = {"channel": "webhook", "target": "https://example.org/x", "conditions": ["silent", "failed"]}


def test_an_alert_is_added_shown_without_its_secret_tested_and_deleted(any_api: Api) -> None:
    made = any_api.post("/v1/alerts", SPEC | {"tags": ["a"], "minutes": 7})
    assert made.status_code == 201
    assert made.json()["secret"].startswith("whsec_")
    (listed,) = any_api.get("/v1/alerts").json()["alerts"]
    assert listed == {name: value for name, value in made.json().items() if name != "secret"}
    assert listed["conditions"] == ["failed", "silent"]
    assert (listed["user"], listed["minutes"], listed["tags"]) == ("admin", 7, ["a"])
    path = f"/v1/alerts/{listed['id']}"
    assert any_api.post(f"{path}/test").status_code == 202
    (delivery,) = any_api.get(f"{path}/deliveries").json()["deliveries"]
    assert (delivery["payload"]["type"], delivery["state"]) == ("alert.test", "pending")
    assert any_api.call("DELETE", path).status_code == 204
    assert any_api.get(f"{path}/deliveries").status_code == 404


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "http://169.254.169.254/latest"}, "not a public address"),
        ({"channel": "email", "target": "ann@example.org"}, "RESNETD_SMTP_URL"),
        ({"conditions": []}, "at least 1 item"),
    ],
)
def test_an_alert_that_cannot_be_sent_is_refused(
    api: Api, changes: dict[str, object], message: str
) -> None:
    refused = api.post("/v1/alerts", SPEC | changes)
    assert refused.status_code == 422
    assert message in refused.text


def test_alerts_are_private_and_only_admins_have_them_about_all_jobs(api: Api) -> None:
    ann, bob = api.add_person("ann"), api.add_person("bob")
    refused = api.post("/v1/alerts", SPEC | {"all_jobs": True}, token=ann)
    assert refused.status_code == 403
    assert api.post("/v1/alerts", SPEC, token=ann).status_code == 201
    assert api.post("/v1/alerts", SPEC | {"all_jobs": True}).status_code == 201
    counts = [len(api.get("/v1/alerts", token=token).json()["alerts"]) for token in (ann, bob)]
    assert counts == [1, 0]
    assert len(api.get("/v1/alerts").json()["alerts"]) == 2
