"""The metrics of the service as Prometheus reads them."""

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from tests.support.api import Api

_Key = tuple[str, frozenset[tuple[str, str]]]


class Scraped:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples: dict[_Key, float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """Of the sample with exactly these labels. 0.0 where there is none."""
        return self.samples.get((name, frozenset(labels.items())), 0.0)

    def values(self, name: str, label: str) -> dict[str, float]:
        """Of a metric with one label, those that are not 0, by the value of the label."""
        return {
            dict(labels)[label]: value
            for (found, labels), value in self.samples.items()
            if found == name and value
        }

    def labels(self) -> Iterator[tuple[str, set[str]]]:
        """The name and the names of the labels of each sample."""
        for name, labels in self.samples:
            yield name, {label for label, _ in labels}


def scrape(api: Api) -> Scraped:
    response = api.get("/metrics")
    assert response.status_code == 200, response.text
    return Scraped(response.text)
