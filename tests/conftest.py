"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A machine that is busy with other tests makes an example slow, which says nothing about the code.
settings.register_profile("dropout", deadline=None)
settings.load_profile("dropout")
