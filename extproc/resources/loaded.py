"""A document that was accepted, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from extproc.resources.document import Resource
from extproc.resources.marked_yaml import FieldPath, YamlNode

Placed = tuple[Resource, str | None, int | None]
"""A resource, its file, and the line where its document begins; both None when it comes from a store."""

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class LoadedDocument(Generic[R]):
    """An accepted document: the model, the document as written, and the file where it stands."""

    resource: R
    written: YamlNode
    file: str

    @property
    def body(self) -> dict[str, Any]:
        """The document as plain values."""
        body: dict[str, Any] = self.written.value
        return body

    def line_at(self, path: FieldPath = ()) -> int:
        """The line (from 1) of the field at ``path``, or of the last part on the way to it that is written."""
        return self.written.at(path).line

    @property
    def placed(self) -> Placed:
        """The document with its place, as ``checks`` wants it."""
        return self.resource, self.file, self.line_at()
