"""What holds for every test."""

from __future__ import annotations

import pytest
from hypothesis import settings

pytest_plugins = ["tests.systems.fixtures"]

# A machine that is busy with other tests makes an example slow, which says nothing about the code.
settings.register_profile("dropout", deadline=None)
settings.load_profile("dropout")

FOR_THE_NIGHT = pytest.mark.skip(reason="it costs more than make test may: make nightly")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for the night, unless it is asked for; like all that is left out, it is said."""
    if "nightly" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("nightly"):
                item.add_marker(FOR_THE_NIGHT)
