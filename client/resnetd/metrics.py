"""`Metrics`: the series of a job by name, which become a frame of pandas or polars."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from resnetd import html
from resnetd.models import Series

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


class Metrics(Mapping[str, Series]):
    """The series of a job by name: train/loss, train/error, test/loss, test/error ...

    In a notebook it shows their curves. A frame has a row for each point, with the columns
    `series`, `iteration`, `value`, `seconds` (of training) and `time`.
    """

    def __init__(self, series: Mapping[str, Series]) -> None:
        self._series = dict(series)

    def __getitem__(self, name: str) -> Series:
        return self._series[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def __repr__(self) -> str:
        points = {name: len(series.values) for name, series in self._series.items()}
        return f"Metrics({points})"

    @property
    def document(self) -> Mapping[str, Any]:
        """The JSON objects of the series as the service sent them."""
        return {name: series.document for name, series in self._series.items()}

    def columns(self) -> dict[str, list[Any]]:
        """Return all points as columns, of which any library makes a table.

        >>> client.jobs.metrics(finished.id, series="test/error").columns()["iteration"]
        [10, 20]
        """
        points = [
            (name, *point)
            for name, series in self._series.items()
            for point in zip(
                series.iterations, series.values, series.seconds, series.times, strict=True
            )
        ]
        names, iterations, values, seconds, times = (
            [list(column) for column in zip(*points, strict=True)] if points else [[]] * 5
        )
        return {
            "series": names,
            "iteration": iterations,
            "value": values,
            "seconds": seconds,
            "time": [datetime.fromtimestamp(at, UTC) for at in times],
        }

    def to_pandas(self) -> "pd.DataFrame":
        """Return all points as a frame of pandas, which must be installed.

        >>> frame = client.jobs.metrics(finished.id, series="test/error").to_pandas()
        >>> frame.value.min()
        np.float64(2.5)
        """
        import pandas as pd  # noqa: PLC0415 - the client does not need it

        return pd.DataFrame(self.columns())

    def to_polars(self) -> "pl.DataFrame":
        """Return all points as a frame of polars, which must be installed."""
        import polars as pl  # noqa: PLC0415 - the client does not need it

        return pl.DataFrame(self.columns())

    def _repr_html_(self) -> str:
        return html.metrics(self)
