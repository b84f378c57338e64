"""What a builtin is here: a Python function, and the Rego around it that makes its failures undefined.

The engine takes None for null, which is true in a rule's body, and an exception ends the whole evaluation: neither is
what OPA makes of a builtin that fails. So a function of ours answers a list, which is empty where OPA's answer is
undefined, and a function in Rego takes the one value out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

PACKAGE: Final = "dropout_builtins"
"""Where the functions in Rego are, below ``data``."""

TEMPLATE_STRING: Final = "internal.template_string"
"""What a text with expressions in it is a call of."""

PARAMETERS: Final = ("a", "b", "c", "d", "e")


class Builtin(NamedTuple):
    """A builtin ``name`` by ``function``, which is given as many values as ``types`` names and raises for undefined.

    ``types`` are the arguments' as Rego's ``is_...`` asks for them, or ``any``; a value of another type is undefined.
    A set that holds arrays, objects or sets cannot be given to Python, and neither a lone surrogate nor an integer over
    64 bits back: such a builtin has a ``rego`` of its own, text with rules of which one is ``NAME(a, b) := ...`` and
    calls the function as ``host.NAME``, for the whole name. ``arity`` is then the function's.

    Without a ``function`` the ``rego`` is all of it.

    ``clock``: it reads ``input.time``. ``needs`` is the module of ours that imports what comes with the extra ``rego``.

    ``rule`` is what the function in Rego is called where that cannot be the last part of the name: a rule ``count``
    that calls ``count`` calls itself. ``site`` is the number of the call that alone has this copy of the function, so
    that an error in it says which call it was.
    """

    name: str
    types: Sequence[str]
    function: Callable[..., Any] | None
    rego: str = ""
    arity: int = 0
    clock: bool = False
    needs: str = ""
    rule: str = ""
    site: int | None = None

    @property
    def package(self) -> tuple[str, ...]:
        """The parts of the name before the last."""
        return tuple(self.name.split(".")[:-1])

    @property
    def module(self) -> str:
        """The package of the function in Rego."""
        site = () if self.site is None else (f"at{self.site}",)
        return ".".join((PACKAGE, *site, *self.package))

    @property
    def file(self) -> str:
        """What errors in the function call its file, which no file of policies is called."""
        return f"<{self.name}>" if self.site is None else f"<{self.name} at {self.site}>"

    @property
    def called(self) -> str:
        """How the function in Rego is called from anywhere."""
        return f"data.{self.module}.{self.rule or self.name.rpartition('.')[2]}"

    @property
    def host_arity(self) -> int:
        """How many values the function is given."""
        return self.arity or len(self.types)

    def text(self) -> str:
        """The Rego around the function."""
        if self.rego:
            return self.rego
        given = PARAMETERS[: len(self.types)]
        checks = [f"is_{kind}({name})" for name, kind in zip(given, self.types, strict=True) if kind != "any"]
        body = "; ".join([*checks, f"some found in host.{self.name}({', '.join(given)})"])
        return f"{self.name.rpartition('.')[2]}({', '.join(given)}) := found if {{ {body} }}"

    def answer(self, *arguments: Any) -> list[Any]:
        """The value in a list, or an empty one where there is none. Never raises."""
        assert self.function is not None
        try:
            return [self.function(*arguments)]
        except Exception:  # whatever it is, what a client sent must not end the evaluation
            return []
