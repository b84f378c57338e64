"""``--metrics NAME=URL``: the servers that a controller may ask for metrics, by the names that documents use.

What opens them is imported where there are some: ``serve`` has the flag too, and starts its workers first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from extproc.errors import InvalidInput

if TYPE_CHECKING:
    from extproc.control.analysis.ports import MetricProvider

FLAG: Final = "--metrics"

metrics_option: Callable[[Any], Any] = click.option(
    FLAG,
    multiple=True,
    metavar="NAME=URL",
    help="A server that metrics are asked of, by the name that documents use; may be given several times.",
)


def metric_servers(given: Sequence[str]) -> dict[str, MetricProvider]:
    """The servers, each by its name; none was reached for.

    Raises:
        InvalidInput: ``metrics_name`` for what is no NAME=URL, and a name that is there twice or that no document can
            say; what ``open_adapter`` raises for the URL.
    """
    found: dict[str, MetricProvider] = {}
    if not given:
        return found
    from extproc.plugins import METRICS, open_adapter

    for each in given:
        name, equals, url = each.partition("=")
        if not equals or not _is_name(name):
            message = f"{FLAG} is NAME=URL, with a name of lower-case letters, digits and inner '-'"
            raise InvalidInput.of("metrics_name", message, field=FLAG)
        if name in found:
            raise InvalidInput.of("metrics_name", f"{FLAG} has two servers called {name}", field=FLAG)
        found[name] = open_adapter(METRICS, url, FLAG)
    return found


def _is_name(name: str) -> bool:
    from pydantic import ValidationError

    from extproc.resources.providers.kind import ServerSpec

    try:
        ServerSpec(server=name)
    except ValidationError:
        return False
    return True
