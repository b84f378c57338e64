"""``dropout features``: values into the embedded feature store, and what it holds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from extproc.adapters.feature_files import read_feature_file
from extproc.adapters.sqlite_features import FeatureRecord, open_features
from extproc.cli.output import output_option, print_json, to_json
from extproc.clock import SystemClock
from extproc.errors import Fault, InvalidInput, Refused

features_option = click.option(
    "--features",
    "url",
    envvar="DROPOUT_FEATURES",
    default="sqlite:features.db",
    show_default=True,
    show_envvar=True,
    metavar="sqlite:PATH",
    help="The feature store.",
)


@click.group()
def features() -> None:
    """Load feature values, and look at them."""


@features.command(short_help="Store the values of .csv and .jsonl files.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@features_option
@output_option
def load(files: tuple[Path, ...], url: str, output: str) -> None:
    """Store the values of .csv and .jsonl files: entity, view, name, value, event_time.

    All of them or, if anything is wrong, none. A value older than the one that is stored is left out.
    """
    now = SystemClock().now()
    records: list[FeatureRecord] = []
    faults: list[Fault] = []
    for file in files:
        try:
            records += read_feature_file(file, now)
        except InvalidInput as error:
            faults += error.faults
    if faults:
        raise InvalidInput(faults)
    written = open_features(url).load(records)
    if output == "json":
        print_json({"read": len(records), "written": written, "older": len(records) - written})
        return
    older = len(records) - written
    left_out = f"; {older} older than what is stored, left out" if older else ""
    click.echo(f"{written} {'value' if written == 1 else 'values'} stored{left_out}.")


@features.command(short_help="Print the values of one entity.")
@click.option("--view", required=True, help="The view to read.")
@click.option("--entity", required=True, help="The entity to read, a user id for instance.")
@click.option("--name", "names", multiple=True, help="A feature; may be repeated. Default: all there are.")
@features_option
@output_option
def get(view: str, entity: str, names: tuple[str, ...], url: str, output: str) -> None:
    """Print the values of one entity, with their event times and ages in seconds."""
    store = open_features(url)
    rows = store.read(view, entity, names) if names else store.read_entity(view, entity)
    store.close()
    now = SystemClock().now()
    if not rows:
        raise Refused.of("not_found", f"{entity!r} has no such features in view {view!r}.")
    if output == "json":
        found = {
            name: {"value": row.value, "event_time": row.event_time, "age": round(max(0.0, now - row.event_time), 3)}
            for name, row in rows.items()
        }
        print_json({"view": view, "entity": entity, "features": found})
        return
    for name, row in rows.items():
        at = datetime.fromtimestamp(row.event_time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        click.echo(f"{name} = {to_json(row.value).decode()}  ({at}, {max(0.0, now - row.event_time):.0f} s ago)")
