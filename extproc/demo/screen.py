"""What people see: a bar per act on a terminal, plain lines where nobody watches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

PLAIN_WIDTH: Final = 100


class Bar:
    """The progress of one act, in requests or in whatever it counts."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total) if progress else None
        self.summary = ""
        """What it took; shown when the act is over."""

    def advance(self, count: int) -> None:
        """So many more were counted."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)


class Screen:
    """Writes to the terminal, or to nothing when ``quiet``."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(quiet=quiet, highlight=False)
        if not self._console.is_terminal:
            self._console = Console(quiet=quiet, highlight=False, width=PLAIN_WIDTH)

    def say(self, text: str, style: str | None = None) -> None:
        """One line of text, as it is."""
        self._console.print(escape(text), style=style)

    def note(self, text: str) -> None:
        """What happens meanwhile, without anybody's doing."""
        self._console.print(f"   [dim]{escape(text)}[/dim]", soft_wrap=True)

    def command(self, text: str) -> None:
        """A command that the demo runs, as a user would type it."""
        self._console.print(f"   [dim]$[/dim] [cyan]{escape(text)}[/cyan]", soft_wrap=True)

    @contextmanager
    def act(self, number: int, title: str, total: int) -> Iterator[Bar]:
        """An act: its title, and its bar while the block runs."""
        self._console.print(f"\n[bold]{number}  {escape(title)}[/bold]")
        if not self._console.is_terminal:
            bar = Bar(None, total)
            yield bar
            self._console.print(f"   {bar.summary}")
            return
        columns = (TextColumn("  "), BarColumn(40), TaskProgressColumn(), TextColumn("[dim]{task.description}[/dim]"))
        with Progress(*columns, console=self._console) as progress:
            bar = Bar(progress, total)
            yield bar
            progress.update(progress.task_ids[0], completed=total, description=bar.summary)

    def verdict(self, sentence: str, failures: Sequence[str]) -> None:
        """What an act has shown, or in what it failed."""
        if not failures:
            self._console.print(f"   [green]✓[/green] {escape(sentence)}")
        for failure in failures:
            self._console.print(f"   [bold red]✗[/bold red] {escape(failure)}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], total: Sequence[Any]) -> None:
        """The closing table; the first column is a name, the others are numbers."""
        table = Table(header_style="bold", show_footer=True, box=SIMPLE_HEAD)
        for number, (column, foot) in enumerate(zip(columns, total, strict=True)):
            table.add_column(column, str(foot), justify="left" if number == 0 else "right", footer_style="bold")
        for row in rows:
            table.add_row(*map(str, row))
        self._console.print()
        self._console.print(table)
