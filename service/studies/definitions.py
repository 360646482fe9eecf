"""The definitions of studies that the service has: YAML files of this package."""

from functools import cache
from importlib import resources

import yaml

from service.errors import NotFound
from service.specs.study_spec import StudyDefinition, parse_study_definition

_FOLDER = "paper_studies"


@cache
def list_definitions() -> dict[str, StudyDefinition]:
    """By name, in alphabetical order."""
    files = resources.files("service.studies").joinpath(_FOLDER).iterdir()
    texts = [file.read_text("utf-8") for file in files if file.name.endswith(".yaml")]
    found = [parse_study_definition(yaml.safe_load(text)) for text in texts]
    return {definition.name: definition for definition in sorted(found, key=lambda item: item.name)}


def find_definition(name: str) -> StudyDefinition:
    found = list_definitions().get(name)
    if found is None:
        raise NotFound(f"no study is called {name!r}; known are {', '.join(list_definitions())}")
    return found
