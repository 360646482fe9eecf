"""Runs the analysis of a job in place of a training: networks, images, progress, result.

`compute` is where a kind of analysis is added.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from service.catalog.recipes import Precision, TtaMode
from service.specs.analysis_result import AnalysisResult
from service.specs.analysis_spec import (
    AnalysisSpec,
    DeepenedTwinSpec,
    EnsembleSpec,
    EvaluationSpec,
    InterpolationSpec,
    LayerResponsesSpec,
    LayerStatisticsSpec,
    LesionSpec,
    LossLandscapeSpec,
    PathGradientsSpec,
    PredictionsSpec,
    TrajectorySpec,
)
from service.specs.job_spec import JobSpec
from service.states import StopReason
from workers.training import distributed, run_environment
from workers.training.analyses import (
    deepened_twin,
    ensemble,
    evaluation_again,
    layer_responses,
    layer_statistics,
    lesion,
    loss_landscape,
    path_gradients,
    predictions,
    trajectory,
)
from workers.training.analyses.analysed_network import AnalysedNetwork, NetworkFiles
from workers.training.analyses.context import AnalysisContext, AnalysisStopped
from workers.training.data.data_source import DataSource, open_data_source
from workers.training.device_context import DeviceContext
from workers.training.errors import DatasetUnusable
from workers.training.observers import Observer


@dataclass(frozen=True)
class AnalysisOutcome:
    """`result` is None if the analysis was stopped."""

    stopped: StopReason | None
    result: AnalysisResult | None


def run(
    spec: JobSpec,
    *,
    context: DeviceContext,
    data_dir: Path,
    observer: Observer,
    weights: Sequence[Path],
) -> AnalysisOutcome:
    """Computes the spec's analysis of the networks in these files, in a single process.

    Raises TrainingError if it cannot be computed.
    """
    assert spec.analysis is not None
    context.configure_process()
    networks = NetworkFiles(weights, context.device)
    source = open_data_source(
        _choose_images(spec),
        data_dir,
        device=context.device,
        threads=context.threads,
        log=observer.on_log,
        normalizer=networks[0].normalizer,
    )
    with closing(source), distributed.join_ranks(rank=0, world_size=1) as ranks:
        if not isinstance(spec.analysis, PredictionsSpec):
            _require_same_classes(spec, networks[0], source)
        observer.on_start(
            run_environment.collect_environment(
                networks[0].model, source, ranks, context=context, precision=Precision.FP32
            )
        )
        analysed = AnalysisContext(spec, networks, source, context.device, ranks, observer)
        analysed.log(
            f"{spec.analysis.kind} of {spec.network} on {spec.dataset}, weights of iteration "
            f"{networks[0].iteration:,}"
        )
        try:
            return AnalysisOutcome(None, compute(spec.analysis, analysed))
        except AnalysisStopped as stopped:
            return AnalysisOutcome(stopped.reason, None)


def compute(  # noqa: C901, PLR0911 - a case for each kind
    analysis: AnalysisSpec, context: AnalysisContext
) -> AnalysisResult:
    """Calls the function of the kind."""
    match analysis:
        case EvaluationSpec():
            return evaluation_again.evaluate_again(context, analysis)
        case EnsembleSpec():
            return ensemble.analyse(context, analysis)
        case PredictionsSpec():
            return predictions.predict(context, analysis)
        case LayerResponsesSpec():
            return layer_responses.analyse(context, analysis)
        case LesionSpec():
            return lesion.analyse(context, analysis)
        case PathGradientsSpec():
            return path_gradients.analyse(context, analysis)
        case LossLandscapeSpec():
            return loss_landscape.analyse(context, analysis)
        case InterpolationSpec():
            return loss_landscape.analyse_interpolation(context, analysis)
        case TrajectorySpec():
            return trajectory.analyse(context, analysis)
        case LayerStatisticsSpec():
            return layer_statistics.analyse(context, analysis)
        case DeepenedTwinSpec():
            return deepened_twin.analyse(context, analysis)
        case _:
            assert_never(analysis)


def _choose_images(spec: JobSpec) -> JobSpec:
    """Other analyses than evaluations see each image once; predictions hold out none."""
    views = TtaMode.NONE
    if isinstance(spec.analysis, EvaluationSpec | EnsembleSpec):
        views = spec.analysis.test_time_augmentation or spec.recipe.test_time_augmentation
    changes: dict[str, Any] = {"test_time_augmentation": views}
    if isinstance(spec.analysis, PredictionsSpec):
        changes["validation_images"] = 0
    recipe = spec.recipe.model_copy(update=changes)
    return spec.model_copy(update={"recipe": recipe})


def _require_same_classes(spec: JobSpec, network: AnalysedNetwork, source: DataSource) -> None:
    """DatasetUnusable if the labels of the images are not the network's logits."""
    if network.class_names != source.class_names:
        raise DatasetUnusable(
            f"the classes of {spec.dataset} are not those that the network was trained for: "
            f"{_list_classes(source.class_names)} instead of {_list_classes(network.class_names)}"
        )


def _list_classes(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown}, ..." if len(names) > 5 else shown  # noqa: PLR2004
