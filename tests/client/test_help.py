"""`resnetd help`: the fields of specs, without a service."""

import json

import pytest

from service.catalog.recipes import Recipe
from service.specs.job_spec import JobSpec
from tests.client.conftest import Command
from tests.client.service import Service


def test_topics_are_listed_with_their_first_sentence(command: Command, service: Service) -> None:
    assert command("help") == 0
    assert "resnetd help recipe\n    Hyperparameters: everything about a training" in command.out
    assert "resnetd help layer-responses\n" in command.out
    assert service.transport.requests == []


def test_a_topic_explains_all_fields(command: Command) -> None:
    for topic, model in (("job", JobSpec), ("recipe", Recipe)):
        assert command("help", topic) == 0
        for field in model.model_fields:
            assert f"\n{topic}.{field}: " in f"\n{command.out}"
    assert max(map(len, command.out.splitlines())) <= 100


@pytest.mark.parametrize("name", ["recipe.max_seconds", "max_seconds"])
def test_a_field_is_found_with_and_without_its_topic(command: Command, name: str) -> None:
    assert command("help", name) == 0
    first, text, *_ = command.out.splitlines()
    assert first.startswith("recipe.max_seconds: number, above 0")
    assert text.startswith("    The training ends after the step")


def test_a_field_of_several_topics_is_explained_for_each(command: Command) -> None:
    assert command("help", "name", "--output", "json") == 0
    assert {topic["name"] for topic in json.loads(command.out)} >= {"job", "recipe", "search"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_second", "specs have no field 'max_second'; similar: max_seconds"),
        ("job.max_seconds", "similar: max_seconds"),
        ("§§§", "without a name, the topics are listed"),
    ],
)
def test_an_unknown_topic_names_similar_ones(command: Command, name: str, text: str) -> None:
    assert command("help", name) == 2
    assert text in command.err
