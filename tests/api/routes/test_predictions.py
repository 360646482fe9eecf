"""Routes over the predictions that finished jobs keep."""

from tests.support.api import Api
from tests.support.core import job_id_of
from tests.support.predictions import finish_with_predictions


def test_the_confusion_of_a_finished_job_has_class_names(api: Api) -> None:
    job_id = finish_with_predictions(api, api.core.run(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 4])
    found = api.get(f"/v1/jobs/{job_id}/confusion").json()
    assert found["images"] == 10
    assert found["class_names"] == [str(digit) for digit in range(10)]
    assert found["matrix"][9][4] == 1
    assert found["class_errors"][9] == 100.0
    assert found["most_confused"] == [{"label": 9, "predicted": 4, "images": 1}]


def test_an_unfinished_job_keeps_no_predictions(api: Api) -> None:
    claimed = api.core.run()
    assert api.get(f"/v1/jobs/{job_id_of(claimed)}/confusion").status_code == 404


def test_finished_jobs_are_combined_and_compared(api: Api) -> None:
    first = finish_with_predictions(api, api.core.run(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 4])
    second = finish_with_predictions(api, api.core.run(), [1, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    found = api.get(f"/v1/predictions?job={first}&job={second}").json()
    assert [job["error"] for job in found["jobs"]] == [10.0, 10.0]
    assert found["ensemble"]["error"] is not None
    (pair,) = found["pairs"]
    assert (pair["a"], pair["b"], pair["images"]) == (first, second, [0, 9])
    other = finish_with_predictions(api, api.core.run(), [0, 1])
    response = api.get(f"/v1/predictions?job={first}&job={other}")
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/job"
