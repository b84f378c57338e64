"""Where policies come from when they are served: folders, bundles, and bundles that are fetched from a server."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from extproc.errors import InvalidInput
from extproc.resources.folders import FolderListing
from extproc.resources.policies import PolicySources, Trust, list_policies, read_several

NOTHING: Final = PolicySources({}, {}, "none")
"""Before the first bundle was fetched."""


@dataclass(frozen=True, slots=True)
class PolicyPlaces:
    """The ``places`` that are read together. Of those that are ``fetched`` there may be none yet.

    With ``trust`` each has to be signed, or not, as that says.
    """

    places: Sequence[Path]
    fetched: frozenset[Path] = frozenset()
    trust: Trust | None = None

    def __str__(self) -> str:
        return ", ".join(map(str, self.places))

    def listing(self) -> FolderListing:
        """All of their files, as ``list_folder`` has them."""
        listings = [list_policies(place) for place in self._there()]
        return FolderListing(
            {path: stamp for listing in listings for path, stamp in listing.files.items()},
            {path: identity for listing in listings for path, identity in listing.folders.items()},
            {path: why for listing in listings for path, why in listing.unreadable.items()},
        )

    def read(self, *, empty: bool) -> PolicySources:
        """What they hold; none at all only with ``empty``. Raises as ``read_several``."""
        there = self._there()
        return read_several(there, empty=empty, trust=self.trust) if there else NOTHING

    def read_with(self, place: Path, content: bytes) -> PolicySources:
        """What they would hold if the bundle at ``place`` were ``content``. Raises as ``read_several``, ``OSError``."""
        with tempfile.TemporaryDirectory(prefix=".", dir=place.parent) as folder:
            draft = Path(folder, place.name)
            draft.write_bytes(content)
            places = [draft if each == place else each for each in self.places]
            try:
                return replace(self, places=places).read(empty=True)
            except InvalidInput as error:
                raise InvalidInput(
                    replace(fault, file=str(place)) if fault.file == str(draft) else fault for fault in error.faults
                ) from error

    def _there(self) -> list[Path]:
        return [place for place in self.places if place not in self.fetched or place.exists()]
