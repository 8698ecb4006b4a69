"""What the searches on the session's cluster need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ray import cloudpickle


@pytest.fixture
def by_value(request: pytest.FixtureRequest) -> Iterator[None]:
    """Send the test's classes to the trials as those of a script: they cannot import them."""
    cloudpickle.register_pickle_by_value(request.module)
    yield
    cloudpickle.unregister_pickle_by_value(request.module)
