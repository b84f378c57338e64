"""Engines of the library: how they are made, and the two that stand for one set of policies."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

# A stack trace for each error that a policy makes costs sixty megabytes at the first and tens of microseconds at each.
# The library reads this when it meets the first error.
os.environ.setdefault("RUST_LIB_BACKTRACE", "0")
import regorus

from extproc.adapters.regorus.builtins.builtin import TEMPLATE_STRING, Builtin
from extproc.adapters.regorus.hosting import Site, register
from extproc.adapters.regorus.syntax_hints import with_hint
from extproc.errors import Fault
from extproc.resources.policies import MAX_FILE_BYTES

MAX_HOSTED_BYTES: Final = 4 * MAX_FILE_BYTES
"""Of a file, a line or the number of lines, with the calls of our builtins written anew."""

_LONGEST_MESSAGE: Final = 1000
_ERROR: Final = re.compile(r"^error: (?P<text>.+)", re.MULTILINE)
PLACE: Final = re.compile(r"--> (?P<file>.+?):(?P<line>\d+):\d+")
"""Where an error of the engine says that it is."""

NOT_SURE: Final = "cannot be sure to answer this as OPA does"
"""What is said of a builtin of ours that ends the evaluation, as it does by dividing by zero."""

TEMPLATE: Final = "a template string"
_BUILTIN: Final = re.compile(r"<(?P<name>[^ ]+)(?: at \d+)?>")

_Answer = TypeVar("_Answer")


class Engines:
    """The engine that has the policies as they are, and one with their second form, if anything in them can throw.

    Both belong to the thread that made them. ``wide``: there are characters beyond U+FFFF in the policies or their
    data. ``sites`` are where the policies call the builtins of ours, by the builtin's file.
    """

    def __init__(
        self, first: Any, second: Any = None, *, wide: bool = False, sites: Mapping[str, Site] | None = None
    ) -> None:
        self.first, self.second = first, second
        self._sites = sites or {}
        self._spares = (first.clone(), second and second.clone())
        self._wide = wide

    def ask(self, document: str | None, question: Callable[[Any], _Answer]) -> _Answer:
        """What ``question`` to an engine gives for an input as JSON, or for none: to the second where the first throws.

        The engine counts a character beyond U+FFFF twice: where there is one, the second is asked at once, which has a
        ``count`` of ours.

        Raises:
            RuntimeError: it throws in both, or the engine panicked. Its place is the policy's own.
        """
        try:
            if self.second is not None and (self._wide or (document and not document.isascii() and is_wide(document))):
                return _ask(self.second, document, question)
            try:
                # As _ask does it: a call would cost each decision something.
                first = self.first
                if document is not None:
                    first.set_input_json(document)
                return question(first)
            except RuntimeError:
                if self.second is None:
                    raise
                with suppress(RuntimeError):
                    return _ask(self.second, document, question)
                raise  # the first one's, which most often has the policy's own line
        except RuntimeError as error:
            raise _of_the_policy(error, self._sites) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # a Rust panic, deliberately no Exception
                raise
            # An engine that panicked takes whatever it is asked next for a recursion.
            self.first, self.second = (spare and spare.clone() for spare in self._spares)
            raise RuntimeError("the engine panicked") from error

    def each(self) -> list[Any]:
        """The engines that there are."""
        return [engine for engine in (self.first, self.second) if engine is not None]

    def take_prints(self) -> list[str]:
        """What was printed since the last time, by the engine that was asked last."""
        printed: list[str] = self.first.take_prints()
        return (self.second.take_prints() if self.second is not None else None) or printed


def _ask(engine: Any, document: str | None, question: Callable[[Any], _Answer]) -> _Answer:
    if document is not None:
        engine.set_input_json(document)
    return question(engine)


def _of_the_policy(error: RuntimeError, sites: Mapping[str, Site]) -> RuntimeError:
    """The error where the policy calls the builtin of ours that it is in, if it is in one."""
    text = str(error)
    place = PLACE.search(text)
    ours = _BUILTIN.fullmatch(place["file"]) if place is not None else None
    if ours is None:
        return error
    what = fault_of("", error).message
    name = TEMPLATE if ours["name"] == TEMPLATE_STRING else ours["name"]
    what = f"{name} {NOT_SURE}" if what == "divide by zero" else f"{name}: {what}"
    site = sites.get(ours[0])
    return RuntimeError((f"--> {site.file}:{site.line}:1\n" if site else "") + f"error: {what}")


def is_wide(text: str) -> bool:
    """Whether a character of a text is beyond U+FFFF."""
    return not text.isascii() and max(text) > "\uffff"


def engine_with(data: Mapping[str, Any]) -> tuple[Any, list[Fault]]:
    """An engine with ``data`` and no policies; its clones share the data. Code: ``policy_data_invalid``."""
    engine = regorus.Engine()
    # A certificate on a line of its own is longer than the engine's 1024 columns, and our names lengthen a line.
    bounds = dict.fromkeys(("max_col", "max_file_bytes", "max_lines"), MAX_HOSTED_BYTES)
    engine.set_policy_length_config(**bounds)
    engine.set_gather_prints(True)  # else print() writes the input to stderr
    try:
        engine.add_data_json(json.dumps(data))
    except RuntimeError as error:
        return engine, [fault_of("policy_data_invalid", error)]
    return engine, []


def add_policies(engine: Any, files: Mapping[str, str], builtins: Iterable[Builtin] = ()) -> list[Fault]:
    """Give ``engine`` policies, and the builtins of ours that they use. Code: ``policy_syntax``."""
    register(engine, builtins)
    faults = []
    for name in sorted(files):
        try:
            engine.add_policy(name, files[name])
        except RuntimeError as error:
            fault = fault_of("policy_syntax", error)
            message = with_hint(fault.message, files[name], fault.line)
            faults.append(Fault(fault.code, message, fault.file or name, fault.line))
    return faults


def fault_of(code: str, error: Exception) -> Fault:
    """The engine's word on a policy's text, without its drawing and stack trace."""
    text = str(error).partition("Stack backtrace")[0].strip()
    place = PLACE.search(text)
    found = _ERROR.search(text)
    message = found["text"] if found else text.splitlines()[0] if text else "the engine gave no reason"
    return Fault(
        code, message[:_LONGEST_MESSAGE], place["file"] if place else None, int(place["line"]) if place else None
    )
