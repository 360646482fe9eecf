from pathlib import Path

from tests.service.catalog.test_uploads import SPLIT, register, zipped
from tests.support.cluster import HealthEndpoint
from workers.cluster.doctor import node_facts
from workers.cluster.doctor.node_facts import FolderFacts


def fill(data_dir: Path, *, size: int = 3) -> Path:
    for name in ("b.png", "a.png"):
        file = data_dir / "coco" / "train" / "cat" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    return data_dir


def test_a_dataset_is_its_names_and_sizes_without_caches_and_unfinished_uploads(
    tmp_path: Path,
) -> None:
    ours, theirs = fill(tmp_path / "ours"), fill(tmp_path / "theirs")
    (ours / ".cache").mkdir()
    (ours / ".upload-7").mkdir()
    (ours / "coco" / ".cache").mkdir()
    (ours / "coco" / ".cache" / "images.npy").touch()
    (ours / "coco" / ".DS_Store").touch()
    # Nodes fetch uploads.
    register(zipped(tmp_path / "birds.zip", SPLIT), ours)

    found = node_facts.list_datasets(ours)
    assert found == node_facts.list_datasets(theirs)
    assert found is not None
    assert found.keys() == {"coco"}
    assert (found["coco"].num_files, found["coco"].num_bytes) == (2, 6)

    file = theirs / "coco" / "train" / "cat" / "a.png"
    file.rename(file.with_name("c.png"))
    renamed = node_facts.list_datasets(theirs)
    assert renamed is not None
    assert renamed["coco"] != found["coco"]
    assert isinstance(renamed["coco"], FolderFacts)
    assert renamed["coco"].num_bytes == 6
    assert node_facts.list_datasets(tmp_path / "missing") is None


def test_the_api_answers_with_its_clock_and_errors_are_described(
    api_health: HealthEndpoint,
) -> None:
    found = node_facts.ask_api(api_health.url)
    assert found.error is None
    assert found.clock_seconds is not None
    assert abs(found.clock_seconds) < 2.0
    api_health.is_up = False
    assert node_facts.ask_api(api_health.url).error == "status 503"
    refused = node_facts.ask_api("http://127.0.0.1:1").error
    assert refused is not None
    assert refused.startswith("ConnectError")


def test_a_work_directory_is_created_and_measured_and_a_file_is_none(tmp_path: Path) -> None:
    disk = node_facts.measure_disk(tmp_path / "var" / "work")
    assert disk.error is None
    assert disk.free_bytes > 0
    assert list((tmp_path / "var" / "work").iterdir()) == []
    (tmp_path / "file").touch()
    assert node_facts.measure_disk(tmp_path / "file" / "work").error == "Not a directory"


def test_the_interface_of_the_loopback_is_found() -> None:
    facts = node_facts.collect(
        address="127.0.0.1",
        head_address="127.0.0.1",
        trains=False,
        api_url="http://127.0.0.1:1",
        data_dir=Path("/"),
        work_dir=Path("/tmp"),
    )
    assert facts.network.interfaces["lo"] == "127.0.0.1"
    assert facts.network.route_address == "127.0.0.1"
    assert facts.datasets is None
    assert facts.versions.keys() >= {"python", "ray", "torch", "resnetd"}
