"""``dropout features``: values into the embedded feature store, and what any feature store holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

import click

from extproc.adapters.file.feature_cells import parse_types
from extproc.adapters.file.features import read_feature_file
from extproc.adapters.sqlite.features import ABSENT, FeatureRecord, SqliteFeatureStore, open_features
from extproc.cli.output import output_option, print_json, print_notes, to_json
from extproc.clock import SystemClock
from extproc.datapath.ports import FeatureKey, FeatureRow
from extproc.datapath.unit import as_integer
from extproc.errors import Fault, InvalidInput, Refused
from extproc.plugins import scheme_of
from extproc.run.feature_store import asked_features, read_one
from extproc.snapshot.model import FeatureView

_INTEGER: Final = ":integer"
_NO_TYPE: Final = "null"
_TYPES: Final = {bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "mapping"}

features_option = click.option(
    "--features",
    "url",
    envvar="DROPOUT_FEATURES",
    default="sqlite:features.db",
    show_default=True,
    show_envvar=True,
    metavar="URL",
    help="The feature store, sqlite:PATH for instance.",
)


class _Types(click.ParamType[Mapping[str, str]]):
    name = "types"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Mapping[str, str]:
        if not isinstance(value, str):
            return MappingProxyType({})
        try:
            return parse_types(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group()
def features() -> None:
    """Load feature values, and look at them."""


@features.command(short_help="Store the values of .csv and .jsonl files.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--types",
    type=_Types(),
    default=MappingProxyType({}),
    metavar="NAME=TYPE,...",
    help="What features in .csv files are: number, boolean or text; entity=text takes ids as they are.",
)
@features_option
@output_option
def load(files: tuple[Path, ...], types: Mapping[str, str], url: str, output: str) -> None:
    """Store the values of .csv and .jsonl files: entity, view, name, value, event_time.

    All of them or, if anything is wrong, none. A value older than the one that is stored is left out. An empty cell,
    NA, NaN or null says that there is no value any more. Cells are numbers, true or false, or text, in the spellings of
    pandas, R and spreadsheets; all cells of a feature in a file are of one type. It is said which: a word that is no
    number and no truth value here is text.
    """
    now = SystemClock().now()
    records: list[FeatureRecord] = []
    faults: list[Fault] = []
    for file in files:
        try:
            records += read_feature_file(file, now, types)
        except InvalidInput as error:
            faults += error.faults
    if faults:
        raise InvalidInput(faults)
    for name in types.keys() - {record.name for record in records} - {"entity"}:
        raise InvalidInput.of("types_unused", f"there is no feature {name!r} in these files", field="--types")
    store = open_features(url)
    changed = list(_changes_of_type(store, records))
    written = store.load(records)
    absent = sum(record.value is ABSENT for record in records)
    older = len(records) - absent - written
    types_found = _types_of(records)
    if output == "json":
        counts = {"read": len(records), "written": written, "older": older, "absent": absent}
        print_json({**counts, "types": types_found, "notes": [note.as_dict() for note in changed]})
        return
    left_out = f"; {older} older than what is stored, left out" if older else ""
    taken_away = f"; {absent} empty, of which nothing is stored any more" if absent else ""
    click.echo(f"{written} {'value' if written == 1 else 'values'} stored{left_out}{taken_away}")
    for view, names in types_found.items():
        for name, found in names.items():
            click.echo(f"{view} {name}: {', '.join(found)}")
    print_notes(changed)


def _changes_of_type(store: SqliteFeatureStore, records: Sequence[FeatureRecord]) -> Iterator[Fault]:
    """Which features are of another type than they were until now, as notes: a policy may compare them with numbers."""
    first = {(record.view, record.name): record.value for record in records if record.value is not ABSENT}
    for view, name in first:
        before = store.some_value(view, name)
        if before is None:
            continue
        was, is_ = _type_of(before), [_type_of(one.value) for one in records if (one.view, one.name) == (view, name)]
        for new in dict.fromkeys(is_):
            if new not in (was, _NO_TYPE):
                yield Fault("feature_type_changed", f"{view} {name} is {new} here; it was {was} until now", field=name)


def _type_of(value: object) -> str:
    return _NO_TYPE if value is ABSENT else _TYPES.get(type(value), _NO_TYPE)


def _types_of(records: Iterable[FeatureRecord]) -> dict[str, dict[str, list[str]]]:
    """By view and name, of which types the values in files are."""
    found: dict[str, dict[str, list[str]]] = {}
    for record in records:
        if record.value is not ABSENT:
            types = found.setdefault(record.view, {}).setdefault(record.name, [])
            kind = _type_of(record.value)
            if kind not in types:
                types.append(kind)
    return found


@features.command(short_help="Print the values of one entity.")
@click.option("--view", required=True, help="The view to read.")
@click.option(
    "--entity",
    "entity",
    multiple=True,
    required=True,
    help="The entity to read, a user id for instance; once for each of its join keys.",
)
@click.option(
    "--join-key",
    "join_keys",
    multiple=True,
    metavar="NAME[:integer]",
    help="The name of a join key, once for each --entity, where the store asks by it; :integer for a whole number.",
)
@click.option("--name", "names", multiple=True, help="A feature; may be repeated. Default: all that sqlite: has.")
@features_option
@output_option
def get(
    view: str, entity: tuple[str, ...], join_keys: tuple[str, ...], names: tuple[str, ...], url: str, output: str
) -> None:
    """Print the values of one entity, with their event times and ages in seconds."""
    key = _key(view, names, join_keys, entity)
    if not names and scheme_of(url) != "sqlite":
        message = "name each feature with --name: a store that is not sqlite: does not say which there are"
        raise InvalidInput.of("features_unnamed", message, field="--name")
    rows = asyncio.run(_read(url, key)) if names else _read_all(url, key)
    now = SystemClock().now()
    if not rows:
        raise Refused.of("not_found", f"{key.text!r} has no such features in view {view!r}{_view_meant(url, view)}")
    if output == "json":
        found = {
            name: {"value": row.value, "event_time": row.event_time, "age": _age(row, now)}
            for name, row in rows.items()
        }
        print_json({"view": view, "entity": key.text, "features": found})
        return
    for name, row in rows.items():
        click.echo(f"{name} = {to_json(row.value).decode()}  ({_when(row, now)})")


def _key(view: str, features: tuple[str, ...], join_keys: tuple[str, ...], entity: tuple[str, ...]) -> FeatureKey:
    """What is read: join keys without names have some, for stores that do not ask by them."""
    if join_keys and len(join_keys) != len(entity):
        message = f"there are {len(entity)} --entity and {len(join_keys)} --join-key: name all join keys or none"
        raise InvalidInput.of("join_keys_unnamed", message, field="--join-key")
    values: list[str | int] = []
    for name, value in zip(join_keys or entity, entity, strict=True):
        number = as_integer(value) if join_keys and name.endswith(_INTEGER) else value
        if number is None:
            raise InvalidInput.of("join_key_type", f"{value!r} is no whole number of 64 bits", field="--entity")
        values.append(number)
    named = join_keys or tuple(f"key {number}" for number in range(len(entity)))
    names = tuple(name.removesuffix(_INTEGER) for name in named)
    integers = tuple(name for name, value in zip(names, values, strict=True) if isinstance(value, int))
    return FeatureKey(FeatureView(view, features, names, integers), tuple(values))


async def _read(url: str, key: FeatureKey) -> Mapping[str, FeatureRow]:
    """What a decision would read of it, from any feature store."""
    async with asked_features(url) as store:
        return await read_one(store, key)


def _read_all(url: str, key: FeatureKey) -> Mapping[str, FeatureRow]:
    store = open_features(url)
    try:
        return store.read_entity(key.view.name, key.text)
    finally:
        store.close()


def _view_meant(url: str, view: str) -> str:
    """The view that was meant, where the store is ours and has none of that name."""
    if scheme_of(url) != "sqlite":
        return ""
    faults = open_features(url).lacking(FeatureView(view, ()))
    return "".join(f"; {fault.message}" for fault in faults)


def _age(row: FeatureRow, now: float) -> float | None:
    return None if row.event_time is None else round(max(0.0, now - row.event_time), 3)


def _when(row: FeatureRow, now: float) -> str:
    if row.event_time is None:
        return "its event time is unknown"
    at = datetime.fromtimestamp(row.event_time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"{at}, {max(0.0, now - row.event_time):.0f} s ago"
