from collections.abc import Iterator

import pytest

from tests.support.fake_api import FakeApi, digits_config, fake_api


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api(digits_config()) as running:
        yield running
