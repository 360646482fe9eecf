"""Checkpoints are written beside the training, which waits for a copy of its tensors and goes on.

The last one is written after the training is over and its device is free: whoever observes it
is given the promise.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from service.specs.job_spec import JobSpec
from service.specs.protocol import CheckpointManifest
from service.states import CheckpointPart, LogLevel
from workers.training import checkpoint
from workers.training.checkpoint import Checkpoint
from workers.training.data.augmentation import Normalizer
from workers.training.errors import CheckpointWriteError
from workers.training.observers import Observer

Export = Callable[[Path], dict[CheckpointPart, Path]]
"""Writes more files into a checkpoint's folder; it must not touch what the training changes."""


class AsyncCheckpointWriter:
    """Writes one checkpoint at a time under `work_path`, on a thread of its own."""

    def __init__(
        self,
        observer: Observer,
        work_path: Path,
        spec: JobSpec,
        *,
        classes: int,
        normaliser: Normalizer,
    ) -> None:
        self._observer, self._work_path, self._spec = observer, work_path, spec
        self._classes = classes
        # The device is another's while the last checkpoint is written.
        self._normaliser = Normalizer(normaliser.mean_HWC.cpu(), normaliser.deviation_C.cpu())
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="save")
        self._saved: Future[None] | None = None

    def save(
        self,
        saved: Checkpoint,
        *,
        test_error: float | None,
        is_last: bool = False,
        export: Export | None = None,
    ) -> None:
        """Nobody changes its tensors. `test_error` None: these weights were not tested."""
        self.wait()
        self._saved = self._thread.submit(
            self._write, saved, test_error, is_last=is_last, export=export
        )
        self._observer.saving(self._saved)

    def wait(self) -> None:
        """Until the checkpoint before is whole.

        Raises what kept it from being so, but a full disk: that costs the run a checkpoint, and
        ends it only where it was the last.
        """
        if self._saved is not None:
            self._saved.result()

    def close(self) -> None:
        """No other checkpoint comes; the thread goes once the last one is whole."""
        self._thread.shutdown(wait=False)

    def _write(
        self, saved: Checkpoint, test_error: float | None, *, is_last: bool, export: Export | None
    ) -> None:
        iteration = saved.cursor.iteration
        try:
            files = checkpoint.save(
                saved,
                checkpoint.checkpoint_folder(iteration, self._work_path),
                spec=self._spec,
                classes=self._classes,
                normaliser=self._normaliser,
            )
        except CheckpointWriteError as error:
            if is_last:
                raise
            self._observer.log(LogLevel.WARNING, str(error))
            return
        if export is not None:
            files |= export(files[CheckpointPart.WEIGHTS].parent)
        note = CheckpointManifest(
            iteration=iteration,
            test_error=test_error,
            train_error=saved.cursor.train_error,
            parts=checkpoint.digest(files),
        )
        self._observer.checkpoint(note, files)
