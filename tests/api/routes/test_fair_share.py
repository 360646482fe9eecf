"""Fair share: settings at run time, and who has used how much."""

import pytest

from tests.support.api import Api


def _use(api: Api, user: str, *, hours: float) -> None:
    api.core.record_cluster(cpus=4)
    api.core.submit(user=user)
    claimed = api.core.start_next()
    api.core.clock.advance(3600 * hours)
    api.core.finish(claimed.attempt_id)
    api.core.release(claimed)
    api.core.record_cluster(cpus=4)


def test_the_settings_are_changed_and_the_usage_is_listed(any_api: Api) -> None:
    before = any_api.list_audit("fair-share-set")
    any_api.add_person("ann", group="cs101")
    token = any_api.add_person("ben")
    assert any_api.get("/v1/fair-share", token=token).json() == {
        "weight": 100.0,
        "half_life_days": 7.0,
        "usage": [],
    }
    _use(any_api, "ann", hours=1)
    settings = {"weight": 10.0, "half_life_days": 1.0}
    assert any_api.call("PUT", "/v1/fair-share", json=settings).json() == settings
    found = any_api.get("/v1/fair-share", token=token).json()
    assert (found["weight"], found["half_life_days"]) == (10.0, 1.0)
    assert [(row["key"], row["relative"], row["points"]) for row in found["usage"]] == [
        ("group:cs101", 1.0, None),
        ("user:ann", 1.0, 10),
    ]
    assert found["usage"][0]["core_hours"] == pytest.approx(1.0, abs=0.01)
    (entry,) = any_api.list_audit("fair-share-set", but=before)
    assert entry["data"] == settings


def test_a_waiting_job_says_how_many_points_it_loses_and_what_for(api: Api) -> None:
    api.add_person("ann", group="cs101")
    _use(api, "ann", hours=2)
    job_id = api.core.submit(user="ann", hold=True)
    api.call("PUT", "/v1/fair-share", json={"weight": 20, "half_life_days": 7})
    expected = {
        "points": 20,
        "message": "20 points for ann's 1.99 core-hours (100 % of the heaviest user's) "
        "and cs101's 1.99 core-hours (100 % of the heaviest group's)",
    }
    found = api.get(f"/v1/jobs/{job_id}").json()["waiting"]
    assert found["fair_share"] == expected
    (row,) = api.get("/v1/queue").json()["jobs"]
    assert (row["waiting"]["fair_share"], row["waiting"]["effective_priority"]) == (expected, 30.0)


def test_a_member_who_sees_what_is_his_sees_only_his_usage(own_api: Api) -> None:
    token = own_api.add_person("ann", group="cs101")
    own_api.add_person("ben", group="cs102")
    _use(own_api, "ann", hours=1)
    _use(own_api, "ben", hours=1)
    keys = {row["key"] for row in own_api.get("/v1/fair-share").json()["usage"]}
    assert keys == {"user:ann", "user:ben", "group:cs101", "group:cs102"}
    own = {row["key"] for row in own_api.get("/v1/fair-share", token=token).json()["usage"]}
    assert own == {"user:ann", "group:cs101"}
