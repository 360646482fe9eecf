"""How much each field of a search space matters for a metric: fANOVA over succeeded trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.searches.ranking import Trial
from service.specs.search_space import Dimension
from service.specs.search_spec import Metric, SearchSpec
from service.states import JobState

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# With fewer trials the shares are arbitrary.
MIN_TRIALS = 4
_SEED = 0


@dataclass(frozen=True)
class Importance:
    """`shares`: each field's share of the metric's variance; their sum is 1.

    Empty where fewer than MIN_TRIALS trials have succeeded.
    """

    metric: Metric
    trials: int
    shares: Mapping[str, float]


def compute_importance(spec: SearchSpec, trials: Sequence[Trial]) -> list[Importance]:
    """For each metric (Hutter, Hoos, Leyton-Brown 2014).

    Only succeeded trials count: a trial that was stopped early has no final value.
    """
    complete = [
        trial for trial in trials if trial.state is JobState.SUCCEEDED and trial.rank is not None
    ]
    params = [trial.row.params for trial in complete]
    return [
        Importance(
            metric=metric,
            trials=len(complete),
            shares=_compute_shares(
                spec.space, params, [trial.values[metric] for trial in complete]
            ),
        )
        for metric in spec.metric
    ]


def _compute_shares(
    space: Mapping[str, Dimension], params: Sequence[dict[str, Any]], values: Sequence[float]
) -> dict[str, float]:
    if len(params) < MIN_TRIALS:
        return {}
    # Imported here: it imports scikit-learn, which takes a second.
    import optuna  # noqa: PLC0415

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    distributions = {path: _make_distribution(dimension) for path, dimension in space.items()}
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={path: _clamp(space[path], point[path]) for path in space},
                distributions=distributions,
                value=value,
            )
            for point, value in zip(params, values, strict=True)
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=_SEED)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _clamp(dimension: Dimension, value: Any) -> Any:
    """The nearest value of a range: a draw may lie outside by a rounding error."""
    if dimension.is_categorical:
        return value
    low, high = dimension.list_extremes()
    return min(max(value, low), high)


def _make_distribution(dimension: Dimension) -> "BaseDistribution":
    from optuna import distributions  # noqa: PLC0415 - as above

    if dimension.is_categorical:
        return distributions.CategoricalDistribution(dimension.arguments)
    low, high = dimension.list_extremes()
    if isinstance(low, int):
        return distributions.IntDistribution(low, high, log=dimension.is_log)
    return distributions.FloatDistribution(low, high, log=dimension.is_log)
