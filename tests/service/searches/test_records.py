"""Rows of searches."""

import pytest

from service.errors import (
    NotFound,
)
from tests.support.searching import Searching


def test_an_unknown_search_is_not_found(searching: Searching) -> None:
    for wrong in ("0", "not an id!"):
        with pytest.raises(NotFound, match="no search"):
            searching.row(wrong)
