"""The simulation of `make simulate`: its jobs run once, and no simulated node is overbooked."""

from pathlib import Path

from sqlalchemy import select

from benchmarks.job_history import copy_job
from benchmarks.simulate import Simulation, check_invariants, make_results, opened
from service.storage.tables import JobRow
from tests.support.core import Core


def test_jobs_of_a_simulation_run_once_on_nodes_that_have_room(tmp_path: Path) -> None:
    with opened("sqlite", tmp_path) as (core, meter, _):
        simulation = Simulation(core, meter, tmp_path, jobs=100, nodes=8, tick_seconds=300.0)
        outcome = simulation.run()
        check_invariants(core, simulation)
        assert 0.3 < outcome.utilisation <= 1.0
        assert len(outcome.slices) == 11
        results = {result.name: result.ours for result in make_results(outcome)}
        assert results["queries per job"] > 5
        assert results["submit, CPU of this process"] > 0

        copy_job(core.database, 3)
        assert _count_jobs(core) == 103


def _count_jobs(core: Core) -> int:
    with core.database.reading() as session:
        return len(session.scalars(select(JobRow.id)).all())
