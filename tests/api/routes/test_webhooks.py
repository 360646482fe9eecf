"""Routes of webhooks."""

from tests.support.api import Api


def test_a_webhook_is_added_shown_without_its_secret_and_deleted(any_api: Api) -> None:
    made = any_api.post("/v1/webhooks", {"url": "https://example.org/hook", "states": ["failed"]})
    assert made.status_code == 201
    assert made.json()["secret"].startswith("whsec_")
    assert made.json()["user"] == "admin"
    (listed,) = any_api.get("/v1/webhooks").json()["webhooks"]
    assert listed == {name: value for name, value in made.json().items() if name != "secret"}
    path = f"/v1/webhooks/{listed['id']}"
    assert any_api.post(f"{path}/ping").status_code == 202
    (delivery,) = any_api.get(f"{path}/deliveries").json()["deliveries"]
    assert (delivery["payload"]["type"], delivery["state"]) == ("ping", "pending")
    assert any_api.call("DELETE", path).status_code == 204
    assert any_api.get(f"{path}/deliveries").status_code == 404


def test_a_webhook_with_a_private_address_is_refused(api: Api) -> None:
    for url in (
        *("http://169.254.169.254/latest", "http://[::1]:8000/", "file:///etc/passwd"),
        *("http://[::127.0.0.1]/", "http://a..b/hook", "http://127.1/"),
    ):
        assert api.post("/v1/webhooks", {"url": url}).status_code == 422
