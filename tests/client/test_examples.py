"""The examples in the docstrings run against the real API."""

import doctest
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import resnetd
from resnetd import (
    alerts,
    analyses,
    catalog,
    jobs,
    metrics,
    model_registry,
    models,
    people,
    searches,
    shares,
    studies,
    webhooks,
)
from resnetd import client as client_module
from tests.client.service import Service
from tests.support import onnx_networks
from tests.support.analyses import finish_analysis, finish_training
from tests.support.api import TOKEN
from tests.support.core import ENVIRONMENT
from tests.support.rows import upload_for
from tests.support.searching import Searching

_SPEC = {"depth": 20, "shortcut": "A", "dataset": "digits"}
_MODULES = (
    *(resnetd, client_module, jobs, metrics, analyses, searches, studies),
    *(model_registry, webhooks, alerts, shares, people, catalog),
)
_EXAMPLES = [
    test for module in _MODULES for test in doctest.DocTestFinder().find(module) if test.examples
]


def test_every_public_method_has_an_example() -> None:
    methods = {
        f"{module.__name__}.{kind.__name__}.{name}"
        for module in _MODULES
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
        for name, value in vars(kind).items()
        if callable(value) and not name.startswith("_")
    }
    assert len(methods) > 40
    assert methods - {test.name for test in _EXAMPLES} == {
        "resnetd.client.Client.close",
        "resnetd.metrics.Metrics.to_polars",  # needs polars
    }


@pytest.mark.parametrize("example", _EXAMPLES, ids=lambda test: test.name)
def test_an_example_prints_what_it_says(
    example: doctest.DocTest, service: Service, client: resnetd.Client
) -> None:
    assert example.docstring is not None
    objects: dict[str, Callable[[], Any]] = {
        "analysed": lambda: _analysed_job(service, client),
        "classifier": lambda: _classifier(service, client),
        "finished": lambda: _finished_job(service, client),
        "search": lambda: _search(service, client),
        "study": lambda: client.studies.submit("fig1", seeds=1),
        "webhook": lambda: client.webhooks.create("https://203.0.114.5/hook"),
        "share": lambda: client.shares.create(jobs=client.submit(_SPEC).id),
        "model": lambda: client.models.register(
            "resnet-8/course", _finished_job(service, client).id
        ),
        "alert": lambda: client.alerts.create(
            "webhook", "https://203.0.114.5/hook", conditions="failed"
        ),
        "quota": lambda: client.quotas.set("user:ann", jobs=1),
        "token": lambda: client.tokens.create("tests"),
        "upload": lambda: _upload(service, client),
        "person": lambda: client.people.add("ann"),
        "job": lambda: client.submit(_SPEC),
    }
    example.globs = {
        "client": client,
        "json": json,
        "resnetd": resnetd,
        "url": service.url,
        "token": TOKEN,
        **{
            name: make()
            for name, make in objects.items()
            if re.search(rf"\b{name}\.(id|name|key)\b", example.docstring)
        },
    }
    output: list[str] = []
    result = doctest.DocTestRunner().run(example, out=output.append, clear_globs=False)
    assert result.failed == 0, "".join(output)


def _upload(service: Service, client: resnetd.Client) -> models.Dataset:
    httpx.post(
        f"{service.url}/v1/datasets?name=birds",
        content=upload_for("/v1/datasets"),
        headers={"Authorization": f"Bearer {TOKEN}"},
        trust_env=False,
    ).raise_for_status()
    return next(found for found in client.datasets.list() if found.name == "folder:birds")


def _finished_job(service: Service, client: resnetd.Client) -> models.Job:
    training = service.run()
    training.report(environment=ENVIRONMENT)
    training.log("training begins")
    training.progress(10, test_error=50.0)
    training.progress(20, test_error=2.5)
    training.save(20, test_error=2.5)
    training.finish()
    return client.jobs.get(training.job_id)


def _classifier(service: Service, client: resnetd.Client) -> models.Job:
    """A job with an exported network, and a picture in the working directory."""
    Path("picture.png").write_bytes(onnx_networks.make_picture(200, 100, 0))
    network = onnx_networks.make_color_network()
    return client.jobs.get(onnx_networks.finish_with_network(service.api, network))


def _analysed_job(service: Service, client: resnetd.Client) -> models.Job:
    """A finished analysis."""
    source = finish_training(service.core)
    submitted = client.analyses.submit(source, "layer-responses")
    finish_analysis(service.core)
    return client.jobs.get(submitted.id)


def _search(service: Service, client: resnetd.Client) -> models.Search:
    """A search with two trials, whose driver is about to start again."""
    search_id = service.search(4.5, 60.0)
    Searching(service.core).terminate_driver(search_id)
    client.searches.extend(search_id, trials=8)
    return client.searches.get(search_id)
