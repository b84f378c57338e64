"""What a provider of metrics brings to the document: its fields, its rules, and what its results look like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from extproc.resources.document import Part, such_as
from extproc.resources.faults import Problem
from extproc.resources.fields import Name
from extproc.resources.marked_yaml import FieldPath

Written = Mapping[str, Any]
"""A provider's part of a document, as it was written."""

Arguments = Mapping[str, str | None]
"""The arguments of a template with their defaults; None where there is none."""


class ServerSpec(Part):
    """The part of a provider that asks a server."""

    server: Annotated[Name, such_as("main")]
    """Which of the servers that the controller was started with: `--metrics NAME=URL`."""


def no_problems(_written: Written, _arguments: Arguments, _path: FieldPath) -> Iterable[Problem]:
    """The rules of a provider whose fields are all that there is to say."""
    return ()


@dataclass(frozen=True, slots=True)
class ProviderKind:
    """A provider, as documents know it.

    ``spec`` is the model of its part, a ``ServerSpec`` if it asks a server. ``results`` are examples of what conditions
    see as ``result``, by the value of the field ``told_by``; without one it may be any of them. ``problems`` gives what
    is wrong with a part that no field alone can say, from the part and the arguments as written, and the part's path.
    """

    spec: type[Part]
    results: Mapping[str, Any]
    told_by: str = ""
    problems: Callable[[Written, Arguments, FieldPath], Iterable[Problem]] = no_problems

    def examples(self, written: Written) -> list[Any]:
        """What results may look like; none if it is not clear which are meant."""
        if not self.told_by:
            return list(self.results.values())
        told = written.get(self.told_by)
        return [self.results[told]] if isinstance(told, str) and told in self.results else []
