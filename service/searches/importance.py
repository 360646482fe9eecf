"""How much each searched field matters for a metric: fANOVA over a search's finished trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.searches.trials import Trial
from service.specs.search_space import Dimension
from service.specs.search_spec import Metric, SearchSpec
from service.states import JobState

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# Fewer say nothing about any field.
MIN_TRIALS = 4
_SEED = 0


@dataclass(frozen=True)
class Importance:
    """Shares of the metric's variance, which come to 1; none where there are too few trials."""

    metric: Metric
    trials: int
    shares: Mapping[str, float]


def of_search(spec: SearchSpec, trials: Sequence[Trial]) -> list[Importance]:
    """By metric, each field's share (Hutter, Hoos, Leyton-Brown 2014).

    Over trials that have succeeded: one that was stopped early says little about its end.
    """
    whole = [one for one in trials if one.job.state is JobState.SUCCEEDED and one.rank is not None]
    points = [one.row.params for one in whole]
    return [
        Importance(
            metric=metric,
            trials=len(whole),
            shares=_shares(spec.space, points, [one.values[metric] for one in whole]),
        )
        for metric in spec.metric
    ]


def _shares(
    space: Mapping[str, Dimension], points: Sequence[dict[str, Any]], values: Sequence[float]
) -> dict[str, float]:
    if len(points) < MIN_TRIALS:
        return {}
    # They import scikit-learn, a second that only this answer is worth.
    import optuna  # noqa: PLC0415

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    distributions = {path: _distribution(dimension) for path, dimension in space.items()}
    study.add_trials(
        [
            optuna.trial.create_trial(params=params, distributions=distributions, value=value)
            for params, value in zip(points, values, strict=True)
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=_SEED)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(dimension: Dimension) -> "BaseDistribution":
    from optuna import distributions  # noqa: PLC0415 - as above

    if dimension.is_categorical:
        return distributions.CategoricalDistribution(dimension.arguments)
    low, high = dimension.list_extremes()
    if isinstance(low, int):
        return distributions.IntDistribution(low, high, log=dimension.is_log)
    return distributions.FloatDistribution(low, high, log=dimension.is_log)
