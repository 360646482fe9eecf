"""How far a run is: everything but tensors that resuming needs. Saved in each checkpoint."""

import json
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class TrainState:
    """Errors are percent, None before the first evaluation.

    Args:
        iteration: completed optimizer steps.
        warmup_done: a warm-up by training error has ended.
        learning_rate: of the last step; None before the first.
        precision: resolved precision of the run; None before it started.
        loss_scale: the loss scale of fp16 and the steps since it changed; None: it is constant.
        train_error: over the training images since the previous evaluation.
        test_error, test_top5_error: of the last evaluation; top-5 with more than five classes.
        validation_error: of the last evaluation; None if no images are held out.
        best_error: lowest error by which the recipe selects, if the schedule watches for a plateau.
        evaluations_since_best: evaluations without a lower one.
        lr_drops: how often a plateau has dropped the learning rate.
        training_seconds: of all attempts together.
        step_seconds: the same without evaluations and checkpoints; what max_seconds limits.
        budget_end: how the run reached a budget of its recipe, with its last step; else None.
        error_curve: (iteration, test error) of each evaluation.
        stretches: (iteration, number of workers) of its start, and of each change of the number.
    """

    iteration: int = 0
    warmup_done: bool = False
    learning_rate: float | None = None
    precision: str | None = None
    loss_scale: tuple[float, int] | None = None
    train_error: float | None = None
    test_error: float | None = None
    test_top5_error: float | None = None
    validation_error: float | None = None
    best_error: float | None = None
    evaluations_since_best: int = 0
    lr_drops: int = 0
    training_seconds: float = 0.0
    step_seconds: float = 0.0
    budget_end: str | None = None
    error_curve: tuple[tuple[int, float], ...] = ()
    stretches: tuple[tuple[int, int], ...] = ()

    def with_evaluation(
        self,
        iteration: int,
        *,
        train_error: float,
        test_error: float,
        test_top5_error: float | None,
        validation_error: float | None,
        selection_error: float | None,
        patience: int | None,
    ) -> "TrainState":
        """The state after the evaluation of `iteration`, which may lie before this one.

        `selection_error`: the one by which the recipe selects. `patience`: evaluations without a
        lower one after which the learning rate drops; None if the schedule does not watch for a
        plateau.
        """
        best, since_best, drops = self.best_error, self.evaluations_since_best, self.lr_drops
        if patience is not None:
            assert selection_error is not None, "validated with the recipe"
            is_better = best is None or selection_error < best
            best = selection_error if is_better else best
            since_best = 0 if is_better else since_best + 1
            if since_best >= patience:
                since_best, drops = 0, drops + 1
        return replace(
            self,
            train_error=train_error,
            test_error=test_error,
            test_top5_error=test_top5_error,
            validation_error=validation_error,
            best_error=best,
            evaluations_since_best=since_best,
            lr_drops=drops,
            error_curve=(*self.error_curve, (iteration, test_error)),
        )

    def with_workers(self, num_workers: int) -> "TrainState":
        """The state of a run that goes on with that number of workers."""
        if self.stretches and self.stretches[-1][1] == num_workers:
            return self
        return replace(self, stretches=(*self.stretches, (self.iteration, num_workers)))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "TrainState":
        fields = json.loads(text)
        curve = tuple((iteration, error) for iteration, error in fields["error_curve"])
        stretches = tuple((iteration, workers) for iteration, workers in fields["stretches"])
        scale = fields["loss_scale"]
        loss_scale = None if scale is None else (scale[0], scale[1])
        read = {"error_curve": curve, "stretches": stretches, "loss_scale": loss_scale}
        return cls(**fields | read)
