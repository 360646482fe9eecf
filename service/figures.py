"""Figures by matplotlib: one look, and equal bytes for equal content."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

FigureFormat = Literal["svg", "png"]

# Okabe and Ito 2008: also distinct without color vision. The first five are warm, the others cold.
WARM_COLORS = ("#D55E00", "#E69F00", "#CC79A7", "#8B4513", "#F0E442")
COLD_COLORS = ("#0072B2", "#56B4E9", "#009E73", "#332288", "#000000")
_DPI = 150
# matplotlib's settings are those of the process, and requests draw in threads.
_lock = threading.Lock()


@contextmanager
def figure_style() -> Iterator[None]:
    """Figures are made and saved inside."""
    # Half a second and 40 MB, for figures only.
    import matplotlib as mpl  # noqa: PLC0415

    settings: Any = {
        "svg.hashsalt": "resnetd",
        "svg.fonttype": "none",
        "font.size": 9.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with _lock, mpl.rc_context(settings):
        yield


def save_figure(figure: Any, file_format: FigureFormat) -> bytes:
    """Without the time and the version of the library."""
    file = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if file_format == "svg" else {"Software": None}
    figure.savefig(file, format=file_format, dpi=_DPI, metadata=metadata)
    return file.getvalue()
