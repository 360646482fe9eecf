"""Predictions for images that people send, by networks in processes beside the API."""

import json
import math
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.numpy
from PIL import Image
from scipy.special import softmax

from api import prediction_process
from api.predictor import _NetworkProcess
from service.states import CheckpointPart, Role
from service.storage.artifacts import ArtifactStore
from tests.support.api import Api
from tests.support.core import job_id_of
from tests.support.onnx_networks import (
    encode_image,
    finish_with_network,
    make_color_network,
    make_picture,
)
from tests.support.predictions import finish_with_parts

REDDISH = make_picture(200, 100, 0)


@pytest.fixture
def job_id(api: Api) -> str:
    return finish_with_network(api, make_color_network())


def _predict(api: Api, job_id: str, image: bytes, **request: Any) -> httpx.Response:
    return api.call("POST", f"/v1/jobs/{job_id}/predictions", content=image, **request)


def _name_classes(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [row["class_name"] for row in response.json()["classes"]]


def test_the_likeliest_classes_have_names_and_probabilities(api: Api, job_id: str) -> None:
    found = _predict(api, job_id, REDDISH).json()
    assert (found["job_id"], found["iteration"]) == (job_id, 20)
    total = math.exp(4) + math.exp(2) + 1
    assert found["classes"] == [
        {"label": label, "class_name": name, "probability": pytest.approx(share / total)}
        for label, name, share in (
            (0, "red", math.exp(4)),
            (1, "green", math.exp(2)),
            (2, "blue", 1.0),
        )
    ]


def test_a_network_without_class_names_answers_with_numbers(api: Api) -> None:
    job_id = finish_with_network(api, make_color_network(has_names=False))
    assert _name_classes(_predict(api, job_id, REDDISH)) == ["0", "1", "2"]


@pytest.mark.slow
def test_a_trained_network_predicts_as_its_evaluation_did(api: Api, tmp_path: Path) -> None:
    # They import torch.
    from service.catalog.architectures import Stem  # noqa: PLC0415
    from tests.workers.training import support  # noqa: PLC0415
    from workers.training.data import datasets  # noqa: PLC0415

    spec = support.small_spec({"exports": ["onnx-image"]})
    _, observer = support.run(spec, tmp_path)
    files = observer.files[12]
    exported = files[CheckpointPart.ONNX_IMAGE].read_bytes()
    job_id = finish_with_parts(api, api.core.run(), {CheckpointPart.ONNX_IMAGE: exported})
    evaluated = safetensors.numpy.load_file(files[CheckpointPart.PREDICTIONS])
    images = datasets.read_images("digits", tmp_path, stem=Stem.CIFAR).test.images_NHWC
    for index in range(5):
        image = encode_image(Image.fromarray(images[index].numpy()))
        classes = _predict(api, job_id, image).json()["classes"]
        expected = softmax(evaluated["logits"][index].astype(float))
        assert classes[0]["label"] == evaluated["predicted"][index]
        assert len(classes) == 5
        for row in classes:
            # The kept logits have 11 bits.
            assert row["probability"] == pytest.approx(expected[row["label"]], rel=0.01)
            assert row["class_name"] == str(row["label"])


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "the body is empty; send the bytes of an image file"),
        (b"not an image", "the body is not the bytes of an image file; known formats are BMP"),
        (json.dumps({"image": "picture.jpg"}).encode(), "the body is not the bytes"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "the body is not the bytes"),
        (make_picture(200, 100, 0, size=(300, 300), format="JPEG")[:900], "the image is broken"),
        (REDDISH[:60], "the image is broken"),
        (encode_image(Image.new("F", (4, 4)), "TIFF"), "the image has 32-bit numbers"),
        (
            # 40 kB that would be 300 MB.
            encode_image(Image.new("1", (10_000, 10_000))),
            "the image is 10000 x 10000; at most 33,554,432 pixels are allowed",
        ),
    ],
    ids=["empty", "text", "json", "eps", "cut jpeg", "cut png", "floats", "bomb"],
)
def test_what_is_no_image_or_too_large_is_refused_and_the_next_is_predicted(
    api: Api, job_id: str, image: bytes, reason: str
) -> None:
    refused = _predict(api, job_id, image)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-input")
    assert refused.json()["detail"].startswith(reason)
    assert _name_classes(_predict(api, job_id, REDDISH)) == ["red", "green", "blue"]


def test_a_body_above_16_mib_is_refused(api: Api, job_id: str) -> None:
    refused = _predict(api, job_id, bytes(2**24 + 1))
    assert (refused.status_code, refused.json()["code"]) == (413, "body-too-large")


def test_a_process_that_is_killed_is_a_problem_and_the_next_image_has_a_new_one(
    api: Api, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = _NetworkProcess.ask

    async def kill_and_ask(process: _NetworkProcess, *message: Any) -> dict[str, Any]:
        process._process.kill()
        return await ask(process, *message)

    _predict(api, job_id, REDDISH)
    with monkeypatch.context() as patched:
        patched.setattr(_NetworkProcess, "ask", kill_and_ask)
        failed = _predict(api, job_id, REDDISH)
    assert (failed.status_code, failed.json()["code"]) == (503, "unavailable")
    assert failed.json()["detail"] == "the process of the prediction ended before it was done"
    assert _name_classes(_predict(api, job_id, REDDISH)) == ["red", "green", "blue"]


def test_a_file_that_is_no_network_is_a_problem(api: Api, job_id: str) -> None:
    broken = finish_with_network(api, b"no network")
    failed = _predict(api, broken, REDDISH)
    assert failed.status_code == 503
    assert failed.json()["detail"].startswith("the network cannot run here: ")
    assert _name_classes(_predict(api, job_id, REDDISH)) == ["red", "green", "blue"]


def test_a_job_without_an_exported_network_is_a_conflict(api: Api) -> None:
    running = job_id_of(api.core.run())
    refused = _predict(api, running, REDDISH)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert refused.json()["detail"] == (
        f"job {running} has no exported network onnx-image: it is running, and its network is "
        "exported at its end"
    )
    ended = finish_with_parts(api, api.core.run(), {})
    assert "if recipe.exports has that name" in _predict(api, ended, REDDISH).json()["detail"]
    assert _predict(api, "0" * 16, REDDISH).status_code == 404


def test_a_network_whose_file_was_lost_is_not_found(api: Api, job_id: str) -> None:
    ArtifactStore(api.settings.artifacts_url).delete_prefix("checkpoints/")
    assert _predict(api, job_id, REDDISH).status_code == 404


def test_who_may_read_a_job_may_predict(api: Api, own_api: Api) -> None:
    job_id = finish_with_network(api, make_color_network())
    viewer = api.add_person("vera", Role.VIEWER)
    assert _predict(api, job_id, REDDISH, token=viewer).status_code == 200
    private = finish_with_network(own_api, make_color_network())
    member = own_api.add_person("mike")
    assert _predict(own_api, private, REDDISH, token=member).status_code == 404
    assert _predict(own_api, private, REDDISH).status_code == 200


def test_the_description_names_the_limit_of_pixels() -> None:
    assert f"{prediction_process.MAX_PIXELS:,}" == "33,554,432"
