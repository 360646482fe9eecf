"""The example notebooks, in a kernel of Jupyter against the real service."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import resnetd
from deploy.local import LocalService

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CELL_SECONDS = 120
# For two workers a warm runner waits.
JOB: dict[str, Any] = {
    "depth": 8,
    "dataset": "digits",
    "recipe": {"name": "quick", "iterations": 20, "evaluate_every": 10, "checkpoint_every": 20},
    "resources": {"num_workers": 2},
}


def _execute(name: str, service: LocalService, folder: Path, **parameters: Any) -> dict[str, str]:
    """The last output of each kind, with small values after the cell tagged `parameters`."""
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    (tagged,) = (cell for cell in notebook.cells if cell.metadata.get("tags") == ["parameters"])
    lines = [f"{parameter} = {value!r}" for parameter, value in parameters.items()]
    tagged.source = "\n".join([tagged.source, *lines])
    runner = NotebookClient(
        notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": str(folder)}}
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RESNETD_URL", service.url)
        environment.setenv("RESNETD_TOKEN", service.token)
        environment.setenv("IPYTHONDIR", str(folder / "ipython"))
        runner.execute()
    return {
        kind: text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind, text in output.get("data", {}).items()
    }


def test_the_notebook_of_a_first_job_trains_it(
    service: LocalService, client: resnetd.Client, tmp_path: Path
) -> None:
    shown = _execute("first-job", service, tmp_path, JOB=JOB | {"shortcut": "A"})
    (job,) = client.jobs.list(limit=1)
    assert (job.state, job.network) == ("succeeded", "resnet-8-A")
    assert {"text/html", "image/png"} <= shown.keys()
    assert (tmp_path / "digits.safetensors").stat().st_size > 4 * 75_290


def test_the_notebook_of_a_comparison_trains_both_networks_with_all_seeds(
    service: LocalService, client: resnetd.Client, tmp_path: Path
) -> None:
    # Jobs of other tests are reused where their specs are equal.
    own_length = JOB | {"recipe": JOB["recipe"] | {"iterations": 22}}
    shown = _execute("plain-against-residual", service, tmp_path, JOB=own_length, SEEDS=2)
    jobs = list(client.jobs.list(limit=4))
    assert {job.state for job in jobs} == {"succeeded"}
    assert sorted((job.network, job.spec["seed"]) for job in jobs) == [
        *(("plain-8", seed) for seed in (0, 1)),
        *(("resnet-8-A", seed) for seed in (0, 1)),
    ]
    assert "image/png" in shown
    assert all(network in shown["text/html"] for network in ("plain-8", "resnet-8-A"))


def test_the_notebook_of_a_search_ranks_its_trials(
    service: LocalService, client: resnetd.Client, tmp_path: Path
) -> None:
    shown = _execute("search", service, tmp_path, JOB=JOB | {"shortcut": "A"}, TRIALS=2)
    (search,) = client.searches.list(limit=1)
    assert (search.state, search.end_reason) == ("succeeded", "trials")
    (best,) = client.searches.best(search.id)
    assert best.job_id in shown["text/html"]
    assert "image/png" in shown
    assert (tmp_path / "best.safetensors").exists()
