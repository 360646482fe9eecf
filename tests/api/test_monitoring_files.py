"""Each query of the alerts and of the dashboard reads what `GET /metrics` has."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.ray_head import free_ports
from tests.support.api import TOKEN, Api
from tests.support.contract import DOCUMENT
from tests.support.fake_api import eventually
from tests.support.prometheus import Scraped, scrape
from tools.check_prose import REPOSITORY

_PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
_BOARD = json.loads((REPOSITORY / "deploy" / "grafana" / "resnetd.json").read_text())
_RULES = yaml.safe_load((_PROMETHEUS / "rules.yml").read_text())["groups"]
# Which Prometheus itself adds.
_TARGET_LABELS = {"job", "instance"}
_METRIC = re.compile(r'\b((?:resnetd|process)_\w+|up)\b(?:\{((?:[^}"]|"[^"]*")*)\})?')
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_USED_LABEL = re.compile(r"\$labels\.(\w+)|\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Query:
    """`text`: what is written beside the query, with names of labels."""

    where: str
    expression: str
    text: str

    @property
    def grouping(self) -> set[str]:
        found = (
            label for labels in _GROUPING.findall(self.expression) for label in labels.split(",")
        )
        return {label.strip() for label in found}


def _list_alerts() -> Iterator[Query]:
    for group in _RULES:
        for rule in group["rules"]:
            yield Query(rule["alert"], rule["expr"], " ".join(rule["annotations"].values()))


def _list_panels() -> Iterator[Query]:
    for panel in _BOARD["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "1m")
            yield Query(panel["title"], expression, target["legendFormat"])


QUERIES = [*_list_alerts(), *_list_panels()]


@pytest.fixture
def scraped(api: Api) -> Scraped:
    """After a request, and with groups and runners."""
    api.core.add_person("ann", group="vision")
    api.core.run()
    scrape(api)
    return scrape(api)


def test_each_query_names_metrics_and_labels_that_exist(scraped: Scraped) -> None:
    labels: dict[str, set[str]] = {"up": set()}
    for name, found in scraped.labels():
        labels.setdefault(name, set()).update(found)
    wrong = []
    for query in QUERIES:
        known = set(_TARGET_LABELS)
        for name, matchers in _METRIC.findall(query.expression):
            known |= labels.get(name, set())
            used = {label for label, _, _ in _MATCHER.findall(matchers)}
            if name not in labels or not used <= labels[name] | _TARGET_LABELS:
                wrong.append((query.where, name, used))
        shown = {first or second for first, second in _USED_LABEL.findall(query.text)}
        if not query.grouping <= known or not shown <= (query.grouping or known):
            wrong.append((query.where, query.expression, query.grouping | shown))
    assert wrong == []
    assert len(QUERIES) > 40


def test_each_value_that_a_query_selects_exists(scraped: Scraped) -> None:
    values: dict[tuple[str, str], set[str]] = {}
    for name, pairs in scraped.samples:
        for label, value in pairs:
            values.setdefault((name, label), set()).add(value)
    unknown = []
    for query in QUERIES:
        for name, matchers in _METRIC.findall(query.expression):
            for label, _, pattern in _MATCHER.findall(matchers):
                if label in _TARGET_LABELS:
                    continue
                found = values[name, label]
                if label == "route":
                    found |= set(DOCUMENT["paths"])
                elif label == "status":
                    found |= {str(status) for status in range(200, 600)}
                unknown += [
                    (query.where, name, label, choice)
                    for choice in _split_choices(pattern)
                    if not any(re.fullmatch(choice, value) for value in found)
                ]
    assert unknown == []


def _split_choices(pattern: str) -> list[str]:
    """Alternatives, those of one group of parentheses written out; braces of routes are text."""
    group = re.search(r"\(([^)]*)\)", pattern)
    if group is not None:
        choices = [pattern.replace(group[0], choice) for choice in group[1].split("|")]
    else:
        choices = pattern.split("|")
    return [choice.replace("{", r"\{").replace("}", r"\}") for choice in choices]


def test_each_alert_is_tested_and_says_what_it_means() -> None:
    tested = (_PROMETHEUS / "rules_test.yml").read_text()
    for group in _RULES:
        for rule in group["rules"]:
            assert f'alertname="{rule["alert"]}"' in tested
            assert rule["labels"]["severity"] in {"critical", "warning"}
            assert {"summary", "description"} == rule["annotations"].keys()


def test_the_dashboard_has_no_address_of_its_own() -> None:
    assert {panel["datasource"]["uid"] for panel in _BOARD["panels"]} == {"${datasource}"}
    titles = [panel["title"] for panel in _BOARD["panels"]]
    assert len(set(titles)) == len(titles)
    assert all('job="$job"' in query.expression for query in _list_panels())


def _find_command(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing: apt install prometheus")
    return found


def _run(*command: str, **options: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_promtool_accepts_rules_and_metrics_and_each_alert_fires(
    scraped: Scraped, api: Api
) -> None:
    promtool = _find_command("promtool")
    _run(promtool, "check", "rules", str(_PROMETHEUS / "rules.yml"))
    _run(promtool, "test", "rules", str(_PROMETHEUS / "rules_test.yml"))
    _run(promtool, "check", "metrics", input=api.get("/metrics").text)
    assert scraped.families


@pytest.mark.slow
def test_prometheus_scrapes_the_api_and_answers_each_query(api: Api, tmp_path: Path) -> None:
    prometheus = _find_command("prometheus")
    api.core.run()
    config = yaml.safe_load((_PROMETHEUS / "prometheus.yml").read_text())
    (scraping,) = config["scrape_configs"]
    (tmp_path / "token").write_text(TOKEN)
    shutil.copy(_PROMETHEUS / "rules.yml", tmp_path)
    scraping["authorization"]["credentials_file"] = str(tmp_path / "token")
    scraping["static_configs"] = [{"targets": [api.url.removeprefix("http://")]}]
    config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms"}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    command = [
        prometheus,
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False) as http,
    ):
        try:

            def ask(expression: str) -> list[Any]:
                answer = http.get("/query", params={"query": expression})
                assert answer.status_code == 200, answer.text
                found: list[Any] = answer.json()["data"]["result"]
                return found

            def has_scraped() -> bool:
                query = {"query": "sum_over_time(up[1m]) > 5"}
                try:
                    answer = http.get("/query", params=query)
                except httpx.TransportError:
                    return False
                # 503 until it is ready.
                return answer.is_success and bool(answer.json()["data"]["result"])

            eventually(has_scraped, within_seconds=30.0)
            for query in QUERIES:
                found = ask(query.expression.replace("$job", "resnetd"))
                # A comparison leaves out what it does not hold for.
                if not re.search(r"[<>=] ?[\d.]+|> 0", query.expression):
                    assert found, query
        finally:
            process.terminate()
