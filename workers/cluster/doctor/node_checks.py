"""Checks of collected facts: pure functions, whose findings say what to change."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from service.text import count_of, format_bytes, format_duration, plural
from workers.cluster.doctor.answers import NodeAnswer
from workers.cluster.doctor.node_facts import ApiFacts, FolderFacts, NodeFacts

# Times of log lines and metric points are the machine's. Below it, HTTP's seconds hide the rest.
MAX_CLOCK_SECONDS = 5.0
# A checkpoint of ResNet-200 with its optimizer and exports is 1 GB; another may wait.
MIN_FREE_BYTES = 2 * 10**9
_MAX_NAMES = 5


class Check(StrEnum):
    """The columns of the table."""

    ANSWER = "answer"
    CLOCK = "clock"
    VERSIONS = "versions"
    DATA = "data"
    ADDRESS = "address"
    GLOO = "gloo"
    TOKEN = "token"  # noqa: S105
    DISK = "disk"
    API = "api"


@dataclass(frozen=True)
class Finding:
    where: str
    check: Check
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.check}: {self.message}"


@dataclass(frozen=True)
class Expected:
    """What all nodes must have, as the machine of the service has it.

    `code`: its version of resnetd; `datasets`: None where it cannot read the data directory;
    `database_clock_seconds`: the database's clock minus the API's.
    """

    code: str
    datasets: Mapping[str, FolderFacts] | None
    database_clock_seconds: float
    api_url: str
    data_dir: Path
    work_dir: Path


def check_cluster(answers: Sequence[NodeAnswer], expected: Expected) -> list[Finding]:
    """What is wrong, node by node. The first node is that of Ray's drivers."""
    is_alone = len(answers) == 1
    head = answers[0].facts if answers else None
    findings = []
    for answer in answers:
        if answer.facts is None:
            message = f"{answer.error}; install the same packages on all nodes, and see Ray's logs"
            findings.append(Finding(answer.address, Check.ANSWER, message))
            continue
        findings += check_node(answer.facts, expected, head=head, is_alone=is_alone)
    return findings


def check_node(
    node: NodeFacts, expected: Expected, *, head: NodeFacts | None, is_alone: bool
) -> list[Finding]:
    """`is_alone`: the cluster has no other node, so no address of it is needed."""
    messages = [
        (Check.CLOCK, _check_clock(node, expected)),
        (Check.VERSIONS, _check_versions(node, expected, head)),
        (Check.DATA, _check_data(node, expected)),
        (Check.ADDRESS, None if is_alone else _check_address(node)),
        (Check.GLOO, None if is_alone or not node.trains else _check_gloo(node)),
        (Check.TOKEN, _check_token(node)),
        (Check.DISK, _check_disk(node, expected.work_dir)),
        (Check.API, describe_api_error(node.api, expected.api_url)),
    ]
    return [Finding(node.address, check, message) for check, message in messages if message]


def describe_api_error(api: ApiFacts, api_url: str) -> str | None:
    if api.error is None:
        return None
    return (
        f"no response of the API at {api_url}: {api.error}; set RESNETD_API_URL to an address "
        "that all machines reach, and RESNETD_API_HOST to an interface on which the API listens"
    )


def describe_clock(behind_seconds: float) -> str | None:
    """None where the clock is near enough to the database's."""
    if abs(behind_seconds) <= MAX_CLOCK_SECONDS:
        return None
    direction = "behind" if behind_seconds > 0 else "ahead of"
    return (
        f"the clock is {format_duration(abs(behind_seconds))} {direction} the database's; "
        "synchronize it, for example with chrony"
    )


def format_table(answers: Sequence[NodeAnswer], findings: Sequence[Finding]) -> str:
    """A row for each node, and below them a sentence for each finding."""
    table = _list_rows(answers, findings) if answers else ()
    return "\n".join([*table, *_list_sentences(findings)])


def _list_rows(answers: Sequence[NodeAnswer], findings: Sequence[Finding]) -> Iterator[str]:
    failed = {(finding.where, finding.check) for finding in findings}
    rows = [["node", *Check]]
    for answer in answers:
        cells = []
        for check in Check:
            is_known = answer.facts is not None or check is Check.ANSWER
            word = "FAILED" if (answer.address, check) in failed else "ok"
            cells.append(word if is_known else "-")
        rows.append([answer.address, *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()
    yield ""


def _list_sentences(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        yield str(finding)
    yield f"{count_of(len(findings), 'check')} failed" if findings else "all checks passed"


def _check_clock(node: NodeFacts, expected: Expected) -> str | None:
    if node.api.clock_seconds is None:
        return None  # without the API the clocks cannot be compared
    return describe_clock(node.api.clock_seconds + expected.database_clock_seconds)


def _check_versions(node: NodeFacts, expected: Expected, head: NodeFacts | None) -> str | None:
    """The machine of the service may have neither Ray nor torch."""
    wanted = {**(head.versions if head is not None else {}), "resnetd": expected.code}
    differing = [
        f"{package} {node.versions.get(package, 'missing')} instead of {version}"
        for package, version in wanted.items()
        if node.versions.get(package) != version
    ]
    if not differing:
        return None
    return f"{', '.join(differing)}; install the same commit and requirements on all machines"


def _check_data(node: NodeFacts, expected: Expected) -> str | None:
    if not node.trains:
        return None
    if node.datasets is None:
        return (
            f"RESNETD_DATA_DIR, {expected.data_dir}, does not exist or cannot be read; "
            "mount or copy the API's"
        )
    wanted = expected.datasets or {}
    missing = [name for name in sorted(wanted) if name not in node.datasets]
    if missing:
        names = ", ".join(missing[:_MAX_NAMES])
        others = count_of(len(missing) - _MAX_NAMES, "other")
        more = f" and {others}" if len(missing) > _MAX_NAMES else ""
        return (
            f"{expected.data_dir} lacks {names}{more}; copy {plural(len(missing), 'it', 'them')} "
            "from the API's machine"
        )
    for name, folder in sorted(wanted.items()):
        if node.datasets[name] != folder:
            return _describe_difference(name, node.datasets[name], folder)
    return None


def _describe_difference(name: str, here: FolderFacts, there: FolderFacts) -> str:
    if (here.num_files, here.num_bytes) == (there.num_files, there.num_bytes):
        difference = "has other names or sizes of files than the API's"
    else:
        difference = f"has {_describe_size(here)}, the API's {_describe_size(there)}"
    return f"the dataset {name} {difference}; copy it again"


def _describe_size(folder: FolderFacts) -> str:
    return f"{count_of(folder.num_files, 'file')} of {format_bytes(folder.num_bytes)}"


def _check_address(node: NodeFacts) -> str | None:
    if ipaddress.ip_address(node.address).is_loopback:
        return (
            f"Ray has the address {node.address}, which no other machine reaches; "
            "start Ray with --node-ip-address and the machine's address"
        )
    route = node.network.route_address
    if route is None:
        return "there is no route to Ray's head; check the network"
    if route != node.address:
        return (
            f"packets to Ray's head leave from {route}, but Ray has the address {node.address}; "
            f"start Ray with --node-ip-address={route}"
        )
    return None


def _check_gloo(node: NodeFacts) -> str | None:
    """Where gloo, which connects the ranks on CPUs, listens."""
    network = node.network
    right = next((name for name, ip in network.interfaces.items() if ip == node.address), None)
    if right is None:
        return f"no interface has {node.address}, the address that Ray has; correct that first"
    advice = f"set GLOO_SOCKET_IFNAME={right} where Ray is started"
    named = network.gloo_interface
    if named is None:
        if network.name_address == node.address:
            return None
        found = network.name_address or "no address"
        return f"the host name resolves to {found}, where gloo would listen; {advice}"
    if named == right:
        return None
    if named not in network.interfaces:
        return f"GLOO_SOCKET_IFNAME is {named}, which has no address here; {advice}"
    return (
        f"GLOO_SOCKET_IFNAME is {named} with {network.interfaces[named]}, "
        f"but Ray has {node.address}; {advice}"
    )


def _check_token(node: NodeFacts) -> str | None:
    if node.ray_auth_mode == "token":
        return None
    return (
        f"RAY_AUTH_MODE is {node.ray_auth_mode or 'not set'}; start Ray with RAY_AUTH_MODE=token "
        "and RAY_AUTH_TOKEN_PATH, or any machine that reaches its ports can run code on it"
    )


def _check_disk(node: NodeFacts, work_dir: Path) -> str | None:
    disk = node.work_disk
    if disk.error is not None:
        return f"RESNETD_WORK_DIR, {work_dir}, cannot be written: {disk.error}"
    if disk.free_bytes < MIN_FREE_BYTES:
        return (
            f"{format_bytes(disk.free_bytes)} are free in RESNETD_WORK_DIR, {work_dir}; "
            f"checkpoints need {format_bytes(MIN_FREE_BYTES)}"
        )
    return None
