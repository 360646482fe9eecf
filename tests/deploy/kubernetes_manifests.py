"""The manifests of deploy/kubernetes as documents, read without kustomize."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUSTOMIZATIONS = sorted(path.parent for path in FOLDER.rglob("kustomization.yaml"))

Document = dict[str, Any]


def read(path: Path) -> list[Any]:
    return list(yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader))


@cache
def _all_documents() -> tuple[Document, ...]:
    found: list[Document] = []
    for folder in KUSTOMIZATIONS:
        (kustomization,) = read(folder / "kustomization.yaml")
        for name in kustomization.get("resources", ()):
            if (folder / name).is_file():
                found += read(folder / name)
    (cluster,) = (document for document in found if document["kind"] == "RayCluster")
    cluster["spec"]["workerGroupSpecs"].append(gpu_group())
    return tuple(found)


def documents() -> list[Document]:
    """All resources; the Ray cluster has the group of the component `gpu`, too."""
    return copy.deepcopy(list(_all_documents()))


def find(kind: str, name: str) -> Document:
    (found,) = (
        document
        for document in documents()
        if (document["kind"], document["metadata"]["name"]) == (kind, name)
    )
    return found


def gpu_group() -> Document:
    ((operation,),) = read(FOLDER / "components" / "gpu" / "worker-group.yaml")
    assert (operation["op"], operation["path"]) == ("add", "/spec/workerGroupSpecs/-")
    group: Document = operation["value"]
    return group


@dataclass(frozen=True)
class PodTemplate:
    name: str
    labels: dict[str, str]
    spec: Document

    @property
    def container(self) -> Document:
        (container,) = self.spec["containers"]
        found: Document = container
        return found


def pod_templates() -> Iterator[PodTemplate]:
    """Of Deployments, Jobs, the head and the worker groups of Ray."""
    for document in documents():
        spec = document.get("spec", {})
        if document["kind"] in {"Deployment", "Job"}:
            yield _make_template(document["metadata"]["name"], spec["template"])
        if document["kind"] == "RayCluster":
            yield _make_template("ray-head", spec["headGroupSpec"]["template"])
            for group in spec["workerGroupSpecs"]:
                yield _make_template(f"ray-{group['groupName']}", group["template"])


def _make_template(name: str, template: Document) -> PodTemplate:
    return PodTemplate(name, template["metadata"]["labels"], template["spec"])
