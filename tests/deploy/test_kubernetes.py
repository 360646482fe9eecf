"""deploy/kubernetes: valid documents, least privilege, settings and commands that exist."""

import json
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import kubernetes_validate.utils
import pytest
import yaml

from api.routes import system
from deploy.make_secrets import make_secrets
from service import __main__ as server_commands
from service.settings import ScalableNodes, Settings
from tests.deploy.composed import REPOSITORY, compose_file
from tests.deploy.kubernetes_manifests import (
    FOLDER,
    KUSTOMIZATIONS,
    Document,
    documents,
    find,
    gpu_group,
    pod_templates,
    read,
)
from workers import __main__ as worker_commands

KUBERNETES = "1.37"
# Kinds of operators, whose schemas no package carries.
CUSTOM = {"RayCluster", "Cluster"}
PODS = {template.name: template for template in pod_templates()}
OWN = ("api", "dispatcher", "migrate")
RAY = tuple(name for name in PODS if name.startswith("ray-"))
SETTINGS: dict[str, str] = find("ConfigMap", "resnetd-settings")["data"]
POLICIES = {
    document["metadata"]["name"]: document["spec"]
    for document in documents()
    if document["kind"] == "NetworkPolicy"
}
# Fields that the definitions of KubeRay and CloudNativePG have. The complete ones of August 2026
# accepted the rendered overlays, with unknown fields refused, on 2026-11-28.
CUSTOM_FIELDS = {
    "RayCluster": {
        "rayVersion",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    },
    "Cluster": {"instances", "imageName", "bootstrap", "storage", "resources"},
}
AUTOSCALER_FIELDS = {
    "version",
    "idleTimeoutSeconds",
    "env",
    "volumeMounts",
    "securityContext",
    "resources",
}
GROUP_FIELDS = {
    "groupName",
    "replicas",
    "minReplicas",
    "maxReplicas",
    "rayStartParams",
    "template",
}


def _validate(document: Document) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.fixture(autouse=True)
def _schemas_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", _read_schema)


@cache
def _read_schema(filename: str, _: str) -> Any:
    package = Path(kubernetes_validate.utils.__file__).parent
    return json.loads((package / filename).read_text())


def test_each_document_is_valid_for_the_schemas_of_kubernetes() -> None:
    for document in documents():
        if document["kind"] not in CUSTOM:
            _validate(document)
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        _validate({**find("Deployment", "api"), "spec": {"replica": 1}})


@pytest.mark.parametrize("name", RAY)
def test_pods_of_the_ray_cluster_are_valid_pods(name: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": PODS[name].spec}
    _validate(pod)


def test_resources_of_operators_have_only_fields_of_their_definitions() -> None:
    for document in documents():
        if document["kind"] in CUSTOM:
            assert set(document["spec"]) <= CUSTOM_FIELDS[document["kind"]]
    cluster = find("RayCluster", "ray")["spec"]
    assert set(cluster["autoscalerOptions"]) <= AUTOSCALER_FIELDS
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= GROUP_FIELDS


def test_each_file_is_part_of_a_kustomization_and_each_part_exists() -> None:
    named = set()
    for folder in KUSTOMIZATIONS:
        (kustomization,) = read(folder / "kustomization.yaml")
        parts = [
            *kustomization.get("resources", ()),
            *(patch["path"] for patch in kustomization.get("patches", ()) if "path" in patch),
        ]
        named |= {(folder / part).resolve() for part in [*parts, "kustomization.yaml"]}
    assert {path.resolve() for path in FOLDER.rglob("*.yaml")} == {
        path for path in named if path.is_file()
    }
    assert [path for path in named if not path.exists()] == []


@pytest.mark.parametrize(
    ("overlay", "components"), [("external-database", ()), ("cloudnative-pg", ("gpu", "s3"))]
)
def test_kustomize_renders_an_overlay_with_components(
    overlay: str, components: tuple[str, ...], tmp_path: Path
) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    folder = Path(shutil.copytree(FOLDER, tmp_path / "kubernetes"))
    kustomization = {
        "resources": [f"kubernetes/overlays/{overlay}"],
        "components": [f"kubernetes/components/{name}" for name in components],
    }
    (folder.parent / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    completed = subprocess.run(
        [kubectl, "kustomize", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    rendered = list(yaml.safe_load_all(completed.stdout))
    for document in rendered:
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "resnetd"
        if document["kind"] not in CUSTOM:
            _validate(document)


# Least privilege


@pytest.mark.parametrize("name", PODS)
def test_a_pod_meets_the_restricted_profile_with_a_read_only_root(name: str) -> None:
    spec, container = PODS[name].spec, PODS[name].container
    user = re.findall(
        r"^USER (\d+):\d+$", (REPOSITORY / "deploy/Dockerfile").read_text(), re.MULTILINE
    )[-1]
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == security["fsGroup"] == int(user)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostPath"} & set(spec)
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]
    assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_only_the_autoscaler_has_an_account_of_kubernetes() -> None:
    without = {
        name for name, pod in PODS.items() if pod.spec.get("automountServiceAccountToken", 1)
    }
    assert without == {"ray-head"}
    options = find("RayCluster", "ray")["spec"]["autoscalerOptions"]
    assert options["securityContext"] == PODS["ray-head"].container["securityContext"]
    assert find("Namespace", "resnetd")["metadata"]["labels"][
        "pod-security.kubernetes.io/enforce"
    ] == "restricted"  # fmt: skip


def _matches(selector: Document, labels: dict[str, str]) -> bool:
    equal = selector.get("matchLabels", {}).items()
    among = selector.get("matchExpressions", ())
    return equal <= labels.items() and all(
        labels.get(rule["key"]) in rule["values"] for rule in among
    )


def _select(selector: Document) -> set[str]:
    return {name for name, pod in PODS.items() if _matches(selector, pod.labels)}


def _ingress_of(name: str) -> set[str]:
    """The pods that a pod accepts connections from."""
    return {
        source
        for policy in POLICIES.values()
        if "Ingress" in policy["policyTypes"] and name in _select(policy["podSelector"])
        for rule in policy.get("ingress", ())
        for peer in rule["from"]
        if "podSelector" in peer
        for source in _select(peer["podSelector"])
    }


def test_pods_reach_only_what_they_need() -> None:
    assert POLICIES["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    nodes = {"ray-cpu", "ray-gpu"}
    assert _ingress_of("ray-head") == {"api", "dispatcher", "ray-head", *nodes}
    assert _ingress_of("ray-cpu") == {"ray-head", *nodes}
    assert _ingress_of("api") == {"dispatcher", "ray-head", *nodes}
    assert _ingress_of("dispatcher") == set()
    database = {"matchLabels": {"cnpg.io/cluster": "resnetd-database"}}
    assert POLICIES["database"]["podSelector"] == database
    assert _select(POLICIES["outgoing"]["podSelector"]) == {"dispatcher"}
    assert _select(POLICIES["to-database"]["podSelector"]) == set(OWN)


# Settings, secrets and commands


def test_each_variable_is_a_setting_and_has_a_valid_value(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_settings = read(FOLDER / "components/gpu/settings.yaml")[0]
    s3_settings = read(FOLDER / "components/s3/settings.yaml")[0]
    changed = {
        operation["path"].removeprefix("/data/"): operation["value"]
        for operation in [*gpu_settings, *s3_settings]
    }
    allowed = {f"RESNETD_{field.upper()}" for field in Settings.model_fields}
    assert set(SETTINGS) | set(changed) <= allowed | {"RESNETD_SECRETS_DIR"}
    for variables in (SETTINGS, SETTINGS | changed):
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        assert str(Settings().api_port) == SETTINGS["RESNETD_API_PORT"]
    for pod in PODS.values():
        for variable in pod.container.get("env", ()):
            assert not variable["name"].startswith("RESNETD_")


def test_nodes_that_the_autoscaler_can_have_are_those_of_the_settings() -> None:
    groups = find("RayCluster", "ray")["spec"]["workerGroupSpecs"]
    ((operation,),) = read(FOLDER / "components" / "gpu" / "settings.yaml")
    for variable, described in (
        (SETTINGS["RESNETD_SCALABLE_NODES"], groups[:1]),
        (operation["value"], groups),
    ):
        expected = [
            ScalableNodes(
                cpus=int(limits["cpu"]),
                gpus=int(limits.get("nvidia.com/gpu", 0)),
                count=group["maxReplicas"],
            )
            for group in described
            for limits in [group["template"]["spec"]["containers"][0]["resources"]["limits"]]
        ]
        assert [ScalableNodes(**nodes) for nodes in json.loads(variable)] == expected


def test_secrets_are_files_that_make_secrets_writes_or_the_operator_of_the_database(
    tmp_path: Path,
) -> None:
    make_secrets(tmp_path)
    known = {path.name for path in tmp_path.iterdir()}
    mounted = set()
    for pod in PODS.values():
        for volume in pod.spec["volumes"]:
            sources = volume.get("projected", {}).get("sources", [volume])
            for secret in (source["secret"] for source in sources if "secret" in source):
                name = secret.get("name") or secret["secretName"]
                mounted |= {(name, item["key"], item["path"]) for item in secret["items"]}
    assert {key for name, key, _ in mounted if name == "resnetd"} <= known
    assert ("resnetd-database-app", "uri", "resnetd_database_url") in mounted
    read_by_name = {path for _, _, path in mounted if path != "token"}
    fields = {f"resnetd_{field}" for field in Settings.model_fields}
    files = {Path(SETTINGS[f"RESNETD_{key}"]).name for key in ("TOKEN_FILE", "SIGNING_KEY_FILE")}
    assert read_by_name - files <= fields


def test_each_command_exists() -> None:
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    commands = {name: PODS[name].container["command"] for name in OWN}
    assert {command[0] for command in commands.values()} <= set(scripts)
    server_commands.make_parser().parse_args(commands["migrate"][1:])
    worker_commands.make_parser().parse_args(commands["dispatcher"][1:])
    assert commands["api"] == ["resnetd-api"]


def test_ports_and_probes_are_those_of_the_api_and_of_docker_compose() -> None:
    api = PODS["api"].container
    assert [str(port["containerPort"]) for port in api["ports"]] == [SETTINGS["RESNETD_API_PORT"]]
    (service_port,) = find("Service", "api")["spec"]["ports"]
    assert service_port["targetPort"] == api["ports"][0]["name"]
    assert SETTINGS["RESNETD_API_URL"] == f"http://api:{service_port['port']}"
    path = api["readinessProbe"]["httpGet"]["path"]
    assert path in {getattr(route, "path", "") for route in system.router.routes}

    composed = compose_file()["services"]
    (_, *check), probe = (
        composed["dispatcher"]["healthcheck"]["test"],
        PODS["dispatcher"].container["readinessProbe"]["exec"]["command"],
    )
    assert probe == check
    for name in RAY:
        assert {"readinessProbe", "livenessProbe"} <= set(PODS[name].container)
        expected = composed["ray-head" if name == "ray-head" else "ray-worker"]["healthcheck"]
        assert (
            PODS[name].container["readinessProbe"]["exec"]["command"][:4] == expected["test"][1:5]
        )


def test_ray_is_started_as_by_docker_compose() -> None:
    composed = compose_file()["services"]
    cluster = find("RayCluster", "ray")["spec"]
    name = cluster["rayVersion"]
    assert f"ray=={name}\n" in (REPOSITORY / "requirements" / "cluster.txt").read_text()
    environment = {
        key: value
        for key, value in composed["ray-head"]["environment"].items()
        if key not in {"RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH"}
    }
    for pod in RAY:
        variables = {entry["name"]: entry["value"] for entry in PODS[pod].container["env"]}
        assert environment.items() <= variables.items()
        assert variables["RAY_AUTH_TOKEN_PATH"] == "/etc/resnetd/ray/token"
    options = {
        f"--{key}={value}" for key, value in cluster["headGroupSpec"]["rayStartParams"].items()
    }
    assert options <= set(composed["ray-head"]["command"])
    # KubeRay names the service after the cluster.
    assert SETTINGS["RESNETD_RAY_URL"] == "http://ray-head-svc:8265"


def test_a_gpu_node_differs_from_a_cpu_node_only_in_its_size_and_gpu() -> None:
    cpu = find("RayCluster", "ray")["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    gpu = gpu_group()["template"]["spec"]
    for spec in (cpu, gpu):
        for key in ("nodeSelector", "tolerations"):
            spec.pop(key, None)
        (container,) = spec["containers"]
        del container["resources"]
        container["env"] = [
            entry for entry in container["env"] if not entry["name"].startswith("NVIDIA")
        ]
    assert cpu == gpu
