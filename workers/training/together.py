"""The training loop of several runs at once, whose networks are computed as one stack.

Each run keeps its own images, schedule, reports and checkpoints, and may begin and end when it
likes: between two steps the stack is made anew of those that are there.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from service.reports import LogLevel
from service.spec import JobSpec
from workers.training import graphs, ranks
from workers.training.loop import Batch, Outcome, Training
from workers.training.observers import Observer
from workers.training.place import Place
from workers.training.ranks import Ranks
from workers.training.stacked import StackedEngine


@dataclass(frozen=True)
class Member:
    """A run from its beginning. `ended` is called once: with its outcome, or why it failed.

    Checkpoints are written to folders under `work_path`.
    """

    spec: JobSpec
    work_path: Path
    observer: Observer
    ended: Callable[[Outcome | Exception], None]


def train_together(
    arrivals: Callable[[], Iterable[Member]], *, place: Place, data_path: Path
) -> None:
    """Trains all members that arrive, in lockstep; returns once none is left and none arrives.

    `arrivals` is called between two steps. All members have one shape of network and of batch,
    and one precision. What ends one member ends no other, but for what breaks the step that they
    share.
    """
    place.settle()
    together: list[_Run] = []
    engine: StackedEngine | None = None
    with ranks.join(rank=0, world_size=1) as alone:
        while True:
            members = list(arrivals())
            if not members and not together:
                return
            runs = together + [_Run(member, alone, place, data_path) for member in members]
            runs = [run for run in runs if run.prepare()]
            if runs != together:
                together, engine = runs, None
            if not together:
                continue
            try:
                engine = engine or _engine(together, place)
                _step(engine, together)
            except Exception as error:  # noqa: BLE001 - it is every member's to report
                for run in together:
                    run.end(error)


class _Run:
    """A member's run: a failure of its own is its end."""

    def __init__(self, member: Member, alone: Ranks, place: Place, data_path: Path) -> None:
        self._member = member
        self._alone, self._place, self._data_path = alone, place, data_path
        self._training: Training | None = None
        self._has_ended = False
        self.batch: Batch | None = None

    @property
    def training(self) -> Training:
        assert self._training is not None, "prepared"
        return self._training

    def prepare(self) -> bool:
        """Gets the next batch ready; False where the run is over."""
        if self._has_ended:
            return False
        try:
            if self._training is None:
                self._training = self._begun()
            self.batch = self._training.next_batch()
            if self.batch is None:
                self.end(self._training.outcome)
        except Exception as error:  # noqa: BLE001 - the member hears it
            self.end(error)
        return not self._has_ended

    def took(self, sums_S: Tensor) -> None:
        try:
            self.training.took(sums_S)
        except Exception as error:  # noqa: BLE001 - the member hears it
            self.end(error)

    def end(self, how: Outcome | Exception) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if self._training is not None:
            self._training.stock.close()
        self._member.ended(how)

    def _begun(self) -> Training:
        training = Training(
            self._member.spec,
            self._place,
            self._alone,
            self._member.observer,
            data_path=self._data_path,
            work_path=self._member.work_path,
        )
        training.begin()
        return training


def _engine(together: Sequence[_Run], place: Place) -> StackedEngine:
    trainings = [run.training for run in together]
    _tell_all(trainings, LogLevel.INFO, f"trains in a stack of {len(trainings)}")
    return StackedEngine(
        [training.model for training in trainings],
        [training.optimizer for training in trainings],
        [training.recipe for training in trainings],
        computed_in=trainings[0].computed_in,
        device=place.device,
        recorder=graphs.recorder_at(place),
        log=partial(_tell_all, trainings),
    )


def _tell_all(trainings: Sequence[Training], level: LogLevel, message: str) -> None:
    for training in trainings:
        training.observer.log(level, message)


def _step(engine: StackedEngine, together: Sequence[_Run]) -> None:
    batches = [run.batch for run in together if run.batch is not None]
    sums_MS = engine.step(
        [batch.images_NCHW for batch in batches],
        [batch.labels_N for batch in batches],
        [batch.learning_rate for batch in batches],
    )
    for run, sums_S in zip(together, sums_MS, strict=True):
        run.took(sums_S)
