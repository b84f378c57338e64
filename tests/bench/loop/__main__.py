"""The loops alone: ``python -m tests.bench.loop`` prints the table and the figures as JSON."""

from __future__ import annotations

import shutil
import sys

from rich.console import Console

from tests.bench.loop import figures
from tests.bench.loop.run import measure


def main() -> int:
    """Measure and print; 1 when a bar is missed."""
    h2load = shutil.which("h2load")
    if h2load is None:
        print("it needs h2load, which Debian has in nghttp2-client: apt-get install nghttp2-client")
        return 1
    console = Console(highlight=False, width=120)
    found = measure(h2load, console)
    figures.show(console, found)
    console.print_json(data=figures.report(found))
    return 0 if all(figure.met for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
