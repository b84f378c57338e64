"""Every failure that a user can meet: a stable code, a sentence, and where it is.

DropoutError           one or more faults; knows the exit code of the command line
├── InvalidInput       exit 2: what was given is wrong (a document, a flag, a policy)
├── Refused            exit 1: the input is fine and the answer is no (a version that was aborted, a lost race)
└── Unreachable        exit 3: something that Dropout depends on cannot be reached (a store, a socket)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import ClassVar, Self


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where.

    ``code`` is stable snake_case that scripts may match on; ``message`` is a sentence for people; ``line`` counts
    from 1; ``field`` is a dotted path such as ``spec.steps[2].setWeight``, or the name of a header or a flag.
    """

    code: str
    message: str
    file: str | None = None
    line: int | None = None
    field: str | None = None

    def in_unicode(self) -> Fault:
        """The fault with escapes for what is no Unicode, as the name of a file may be."""
        file, field = (text and _unicode(text) for text in (self.file, self.field))
        return Fault(self.code, _unicode(self.message), file, self.line, field)

    def as_dict(self) -> dict[str, str | int | None]:
        """The fault as ``-o json`` prints it."""
        return asdict(self.in_unicode())

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        parts = (place, self.field)
        if self.field is not None and (self.field.startswith("-") or self.field.isupper()):
            parts = (self.field, place)  # an option or an argument, and the path that it was given
        if self.field is not None and self.message.startswith(self.field):
            parts = (place, None)  # a sentence about a flag names it by itself
        where = " ".join(part for part in parts if part)
        return f"{where}: {self.message} ({self.code})" if where else f"{self.message} ({self.code})"


def _unicode(text: str) -> str:
    """The text with escapes for what is no Unicode: the bytes of a file's name that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


class DropoutError(Exception):
    """A failure with its faults; the base of every error that Dropout raises on purpose."""

    exit_code: ClassVar[int] = 2

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    @classmethod
    def of(
        cls,
        code: str,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        field: str | None = None,
    ) -> Self:
        """An error with a single fault."""
        return cls([Fault(code, message, file=file, line=line, field=field)])

    @property
    def code(self) -> str:
        """The code of the first fault."""
        return self.faults[0].code


class InvalidInput(DropoutError):
    """What was given is wrong; nothing of it was applied."""

    exit_code = 2


class Refused(DropoutError):
    """The input is fine and the answer is no."""

    exit_code = 1


class Unreachable(DropoutError):
    """A dependency cannot be reached."""

    exit_code = 3
