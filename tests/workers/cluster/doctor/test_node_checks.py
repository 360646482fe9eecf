from dataclasses import replace
from pathlib import Path

import pytest

from workers.cluster.doctor import node_checks
from workers.cluster.doctor.answers import NodeAnswer, format_line, parse_log
from workers.cluster.doctor.node_checks import Check, Expected, Finding
from workers.cluster.doctor.node_facts import (
    ApiFacts,
    DiskFacts,
    FolderFacts,
    NetworkFacts,
    NodeFacts,
)

HEAD, WORKER = "10.77.0.2", "10.77.0.3"
VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.15.0", "resnetd": "aa"}
COCO = FolderFacts(num_files=12, num_bytes=4_000, digest="d1")
EXPECTED = Expected(
    code="aa",
    datasets={"coco": COCO},
    database_clock_seconds=0.0,
    api_url="http://10.77.0.1:8000",
    data_dir=Path("/data"),
    work_dir=Path("/work"),
)
NETWORK = NetworkFacts(
    route_address=WORKER,
    name_address="127.0.1.1",
    interfaces={"lo": "127.0.0.1", "eth0": WORKER, "eth1": "192.168.1.3"},
    gloo_interface="eth0",
)
NODE = NodeFacts(
    address=WORKER,
    trains=True,
    versions=VERSIONS,
    api=ApiFacts(clock_seconds=0.4),
    work_disk=DiskFacts(free_bytes=10**12),
    network=NETWORK,
    datasets={"coco": COCO, "another": COCO},
    ray_auth_mode="token",
)
HEAD_NODE = replace(NODE, address=HEAD, trains=False, datasets=None)


def messages_of(node: NodeFacts, *, expected: Expected = EXPECTED) -> list[tuple[Check, str]]:
    findings = node_checks.check_node(node, expected, head=HEAD_NODE, is_alone=False)
    assert all(finding.where == node.address for finding in findings)
    return [(finding.check, finding.message) for finding in findings]


def with_network(**changes: object) -> NodeFacts:
    return replace(NODE, network=replace(NETWORK, **changes))  # type: ignore[arg-type]


def with_datasets(**datasets: FolderFacts) -> NodeFacts:
    return replace(NODE, datasets=datasets)


@pytest.mark.parametrize(
    ("node", "check", "message"),
    [
        (
            replace(NODE, api=ApiFacts(clock_seconds=63.0)),
            Check.CLOCK,
            "the clock is 1.1 minutes behind the database's; synchronize it",
        ),
        (
            replace(NODE, api=ApiFacts(clock_seconds=-10.0)),
            Check.CLOCK,
            "the clock is 10 seconds ahead of the database's",
        ),
        (
            replace(NODE, versions={**VERSIONS, "torch": "2.14.0", "resnetd": "bb"}),
            Check.VERSIONS,
            "torch 2.14.0 instead of 2.15.0, resnetd bb instead of aa; install the same commit",
        ),
        (
            replace(NODE, versions={name: VERSIONS[name] for name in ("python", "ray", "resnetd")}),
            Check.VERSIONS,
            "torch missing instead of 2.15.0",
        ),
        (replace(NODE, datasets=None), Check.DATA, "RESNETD_DATA_DIR, /data, does not exist"),
        (with_datasets(another=COCO), Check.DATA, "/data lacks coco; copy it from the API's"),
        (
            with_datasets(coco=FolderFacts(num_files=1, num_bytes=500, digest="d2")),
            Check.DATA,
            "the dataset coco has 1 file of 500 bytes, the API's 12 files of 4 kB; copy it again",
        ),
        (
            with_datasets(coco=replace(COCO, digest="d2")),
            Check.DATA,
            "the dataset coco has other names or sizes of files than the API's; copy it again",
        ),
        (
            with_network(route_address="192.168.1.3"),
            Check.ADDRESS,
            (
                "packets to Ray's head leave from 192.168.1.3, but Ray has the address 10.77.0.3; "
                "start Ray with --node-ip-address=192.168.1.3"
            ),
        ),
        (with_network(route_address=None), Check.ADDRESS, "there is no route to Ray's head"),
        (
            with_network(gloo_interface=None),
            Check.GLOO,
            (
                "the host name resolves to 127.0.1.1, where gloo would listen; "
                "set GLOO_SOCKET_IFNAME=eth0 where Ray is started"
            ),
        ),
        (
            with_network(gloo_interface="ens3"),
            Check.GLOO,
            "GLOO_SOCKET_IFNAME is ens3, which has no address here; set GLOO_SOCKET_IFNAME=eth0",
        ),
        (
            with_network(gloo_interface="eth1"),
            Check.GLOO,
            "GLOO_SOCKET_IFNAME is eth1 with 192.168.1.3, but Ray has 10.77.0.3",
        ),
        (with_network(interfaces={}), Check.GLOO, "no interface has 10.77.0.3"),
        (replace(NODE, ray_auth_mode=None), Check.TOKEN, "RAY_AUTH_MODE is not set; start Ray"),
        (
            replace(NODE, work_disk=DiskFacts(error="Read-only file system")),
            Check.DISK,
            "RESNETD_WORK_DIR, /work, cannot be written: Read-only file system",
        ),
        (
            replace(NODE, work_disk=DiskFacts(free_bytes=10**6)),
            Check.DISK,
            "1 MB are free in RESNETD_WORK_DIR, /work; checkpoints need 2 GB",
        ),
        (
            replace(NODE, api=ApiFacts(error="ConnectError refused")),
            Check.API,
            (
                "no response of the API at http://10.77.0.1:8000: ConnectError refused; "
                "set RESNETD_API_URL"
            ),
        ),
    ],
)
def test_a_finding_says_what_is_wrong_and_what_to_change(
    node: NodeFacts, check: Check, message: str
) -> None:
    [(found, text)] = messages_of(node)
    assert found is check
    assert text.startswith(message)


def test_a_node_that_has_what_is_needed_passes() -> None:
    assert messages_of(NODE) == []
    assert messages_of(HEAD_NODE) == [
        (
            Check.ADDRESS,
            (
                f"packets to Ray's head leave from {WORKER}, but Ray has the address {HEAD}; "
                f"start Ray with --node-ip-address={WORKER}"
            ),
        )
    ]
    named = with_network(gloo_interface=None, name_address=WORKER)
    assert messages_of(named) == []


def test_an_address_of_the_loopback_is_refused_where_there_is_another_node() -> None:
    node = replace(NODE, address="127.0.0.1")
    alone = node_checks.check_node(node, EXPECTED, head=node, is_alone=True)
    assert alone == []
    assert (
        Check.ADDRESS,
        (
            "Ray has the address 127.0.0.1, which no other machine reaches; "
            "start Ray with --node-ip-address and the machine's address"
        ),
    ) in messages_of(node)


def test_clocks_are_compared_with_the_databases_not_the_apis() -> None:
    expected = replace(EXPECTED, database_clock_seconds=-30.0)
    assert messages_of(replace(NODE, api=ApiFacts(clock_seconds=30.0)), expected=expected) == []
    assert [check for check, _ in messages_of(NODE, expected=expected)] == [Check.CLOCK]


def test_a_node_that_does_not_answer_is_a_finding_and_the_others_are_checked() -> None:
    answers = [
        NodeAnswer(HEAD, replace(HEAD_NODE, network=replace(NETWORK, route_address=HEAD))),
        NodeAnswer(WORKER, None, "no answer within 120 s"),
        NodeAnswer("10.77.0.4", replace(NODE, address="10.77.0.4", ray_auth_mode=None)),
    ]
    findings = node_checks.check_cluster(answers, EXPECTED)
    assert findings[0] == Finding(
        WORKER,
        Check.ANSWER,
        "no answer within 120 s; install the same packages on all nodes, and see Ray's logs",
    )
    lines = node_checks.format_table(answers, findings).splitlines()
    assert lines[0].split() == ["node", *Check]
    assert lines[1].split() == [HEAD, *["ok"] * 9]
    assert lines[2].split() == [WORKER, "FAILED", *["-"] * 8]
    assert lines[3].split()[:2] == ["10.77.0.4", "ok"]
    assert lines[3].split().count("FAILED") == 3
    assert lines[-1] == "4 checks failed"
    assert node_checks.format_table(answers[:1], []).endswith("\n\nall checks passed")


def test_answers_are_found_among_the_other_lines_of_a_log() -> None:
    answers = [NodeAnswer(WORKER, NODE), NodeAnswer(HEAD, None, "no answer within 120 s")]
    log = "\n".join(
        [
            "2026-11-28 INFO resnetd-doctor {",
            f"(pid=7) {format_line(answers[0])}",
            "Traceback",
            format_line(answers[1]),
        ]
    )
    assert parse_log(log) == answers
