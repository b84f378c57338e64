"""The clock that tests own, by the name that tests know it by."""

from extproc.testing.clock import FakeClock

__all__ = ["FakeClock"]
