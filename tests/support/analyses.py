"""Finished trainings with checkpoints, and analyses of them."""

from typing import Any

from service.jobs import analyses
from service.specs.analysis_request import AnalysisRequest
from service.specs.analysis_result import AnalysisResult, ResultTable
from service.states import Reason
from tests.support.core import Core, job_id_of, note

EVALUATION = {"kind": "evaluation"}
LAYER_RESPONSES = {"kind": "layer-responses"}

RESPONSES = AnalysisResult(
    numbers={"layers": 3, "mean_std": 2.0},
    tables=[
        ResultTable(
            name="layers",
            columns=["layer", "name", "std", "mean"],
            rows=[[1, "conv1", 1.0, 0.5], [2, "layer1.0.conv1", 3.0, None], [3, "x", 2.0, 0.0]],
        )
    ],
    notes=["responses to 360 test images of digits"],
)


def finish_training(core: Core, **fields: Any) -> str:
    """The id of a job that has succeeded with checkpoints at 100 (test error 3) and 200 (5)."""
    recipe = {"name": "quick", "iterations": 200, "select_by": "test"}
    claimed = core.run(**{"recipe": recipe} | fields)
    manifests = [note(100, test_error=3.0), note(200, test_error=5.0)]
    core.report(claimed.attempt_id, 2, checkpoints=manifests)
    core.finish(claimed.attempt_id)
    core.release(claimed)
    return job_id_of(claimed)


def submit_analysis(core: Core, job_id: str, *, user: str = "ann", **fields: Any) -> str:
    """The id of the analysis, by default an evaluation."""
    core.clock.advance(1.0)
    request = AnalysisRequest.model_validate({"job": job_id, "analysis": EVALUATION} | fields)
    with core.database.transaction() as session:
        submitted = analyses.submit(
            session, request, user=user, data_dir=core.data_dir, now=core.clock.now
        )
        return submitted.row.id


def finish_analysis(core: Core, result: AnalysisResult = RESPONSES) -> str:
    """Runs the next job of the queue, an analysis, to its end; its id."""
    claimed = core.start_next()
    core.report(claimed.attempt_id, 1)
    core.clock.advance(30.0)
    core.finish(claimed.attempt_id, Reason.COMPLETED, analysis=result)
    core.release(claimed)
    return job_id_of(claimed)
