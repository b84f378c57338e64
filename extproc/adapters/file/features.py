"""Files of feature values: CSV with a header line, or one JSON object per line. Read whole or not at all."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson

from extproc.adapters.file.feature_cells import TYPES, BadCell, ValueColumn, check_id
from extproc.adapters.sqlite.features import FeatureRecord
from extproc.errors import Fault, InvalidInput
from extproc.files import why_not

REQUIRED: Final = ("entity", "view", "name", "value")
COLUMNS: Final = frozenset((*REQUIRED, "event_time"))
LATEST_EVENT_TIME: Final = 253_402_300_800.0
"""The end of the year 9999; beyond it, somebody wrote milliseconds."""

AHEAD_SECONDS: Final = 300.0
"""How far in the future an event may be: clocks differ."""


_WAYS_OUT: Final = {
    "value_type": f"; which it is, say by --types {{name}}={'|'.join(TYPES)}",
    "value_unclear": "; write a number as 1234.5 and nothing as an empty cell, or say --types {name}=text",
}


class _Row(NamedTuple):
    line: int
    cells: Mapping[str, Any]


class _Table(NamedTuple):
    """The rows of a file; ``comma``: a comma may be a decimal sign in it."""

    rows: Iterator[_Row]
    comma: bool


class _Bad(ValueError):
    """One cell that is wrong, in a column: a stable code, and a sentence."""

    def __init__(self, code: str, message: str, column: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.column = column


class _Read(NamedTuple):
    """A record whose value is a cell that is still text, and where it stands."""

    record: FeatureRecord
    line: int


def read_feature_file(path: Path, now: float, types: Mapping[str, str] = MappingProxyType({})) -> list[FeatureRecord]:
    """The records of a .csv or .jsonl file; ``now`` (Unix seconds) stands for an event time that is left out.

    A CSV cell is what ``feature_cells`` says, or of the type that ``types`` has for its feature, and ``ABSENT`` where
    it is empty; a value in a JSON line may be anything. ``event_time`` is RFC 3339 or Unix seconds.

    Raises:
        InvalidInput: with every fault of the file, its line and its column.
    """
    faults: list[Fault] = []
    read: list[_Read] = []
    table = _rows(path, faults)
    any_id = path.suffix != ".csv" or "entity" in types
    for row in table.rows:
        try:
            read.append(_Read(_record(row.cells, now, any_id=any_id), row.line))
        except _Bad as bad:
            faults.append(Fault(bad.code, bad.message, file=str(path), line=row.line, field=bad.column))
    records = [one.record for one in read]
    if path.suffix == ".csv":
        records = _typed(path, read, ValueColumn(types, comma=table.comma), faults)
    if not records and not faults:
        faults.append(Fault("file_empty", "there are no feature values in this file", file=str(path)))
    if faults:
        raise InvalidInput(sorted(faults, key=lambda fault: fault.line or 0))
    return records


def _typed(path: Path, read: Sequence[_Read], column: ValueColumn, faults: list[Fault]) -> list[FeatureRecord]:
    """The records with their cells read."""
    records = []
    for one in read:
        record = one.record
        try:
            value = column.take((record.view, record.name), record.value, one.line)
        except BadCell as bad:
            faults.append(_cell_fault(path, record.name, one.line, bad))
        else:
            records.append(record._replace(value=value))
    faults += [_cell_fault(path, name, line, unclear) for (_, name), line, unclear in column.unclear()]
    return records


def _cell_fault(path: Path, name: str, line: int, bad: BadCell) -> Fault:
    way_out = _WAYS_OUT.get(bad.code, "").format(name=name) if "--types" not in bad.message else ""
    return Fault(bad.code, f"{bad.message}{way_out}", file=str(path), line=line, field="value")


def _rows(path: Path, faults: list[Fault]) -> _Table:
    reader = {".csv": _csv_rows, ".jsonl": _json_rows}.get(path.suffix)
    if reader is None:
        raise InvalidInput.of("file_type", "features are loaded from .csv and .jsonl files", file=str(path))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput.of(
            "file_unreadable", f"the file cannot be read: {why_not(error, path)}", file=str(path)
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InvalidInput.of("file_encoding", "the file is not UTF-8", file=str(path), line=line) from error
    return reader(path, text, faults)


def _csv_rows(path: Path, text: str, faults: list[Fault]) -> _Table:
    header = text.partition("\n")[0]
    # Where the comma is the decimal sign, spreadsheets and R's write.csv2 put semicolons between cells.
    delimiter = ";" if ";" in header and "," not in header else ","
    return _Table(_cells(path, text, delimiter, faults), comma=delimiter == ";")


def _cells(path: Path, text: str, delimiter: str, faults: list[Fault]) -> Iterator[_Row]:
    # Lines end as in a file: U+2028 and its like are part of a cell.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    line = 1
    try:
        columns = next(reader, [])
        if columns:
            faults.extend(_header_faults(path, columns))
        if faults:
            return
        line = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(columns):
                yield _Row(line, dict(zip(columns, cells, strict=True)))
            elif cells:
                message = f"there are {len(cells)} cells for {len(columns)} columns"
                faults.append(Fault("row_length", message, file=str(path), line=line))
            line = reader.line_num + 1
    except csv.Error as error:
        faults.append(Fault("csv_syntax", f"this is not CSV: {error}", file=str(path), line=line))


def _header_faults(path: Path, columns: list[str]) -> Iterator[Fault]:
    for column in dict.fromkeys(columns):
        if not column:
            message = "a column has no name: pandas writes one unless index=False, R unless row.names = FALSE"
            yield Fault("unknown_field", message, file=str(path), line=1)
        elif column not in COLUMNS:
            message = (
                f"a line is one value of one feature: there are {', '.join(REQUIRED)} and event_time, no {column!r}"
            )
            yield Fault("unknown_field", message, file=str(path), line=1, field=column)
        elif columns.count(column) > 1:
            yield Fault("duplicate_field", f"column {column!r} comes twice", file=str(path), line=1, field=column)
    for column in REQUIRED:
        if column not in columns:
            yield Fault("missing_field", f"column {column!r} is missing", file=str(path), line=1, field=column)


def _json_rows(path: Path, text: str, faults: list[Fault]) -> _Table:
    return _Table(_json_lines(path, text, faults), comma=False)


def _json_lines(path: Path, text: str, faults: list[Fault]) -> Iterator[_Row]:
    for line, source in enumerate(text.split("\n"), start=1):
        if not source.strip():
            continue
        try:
            found = orjson.loads(source)
        except orjson.JSONDecodeError as error:
            faults.append(Fault("json_syntax", f"this is not JSON: {error.msg}", file=str(path), line=line))
            continue
        if not isinstance(found, dict):
            faults.append(Fault("wrong_type", "each line is a JSON object", file=str(path), line=line))
            continue
        for key in found.keys() - COLUMNS:
            faults.append(Fault("unknown_field", f"there is no key {key!r}", file=str(path), line=line, field=key))
        yield _Row(line, found)


def _record(cells: Mapping[str, Any], now: float, *, any_id: bool) -> FeatureRecord:
    for column in ("entity", "view", "name"):
        cell = cells.get(column)
        if cell in (None, ""):
            raise _Bad("missing_field", f"{column!r} is missing", column)
        if not isinstance(cell, str):
            raise _Bad("wrong_type", f"{column!r} is not a string", column)
    if "value" not in cells:
        raise _Bad("missing_field", "'value' is missing", "value")
    value = cells["value"]
    try:
        if not any_id:
            check_id(cells["entity"])
    except BadCell as bad:
        raise _Bad(bad.code, f"{bad.message}; --types entity=text takes it as it is", "entity") from None
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:  # it reads deeper than it writes
        raise _Bad("value_too_deep", "the value is nested too deeply", "value") from None
    event_time = _event_time(cells.get("event_time"), now)
    return FeatureRecord(cells["view"], cells["entity"], cells["name"], value, event_time)


def _event_time(cell: Any, now: float) -> float:
    if cell in (None, ""):
        return now
    try:
        seconds = float(cell)
    except (TypeError, ValueError):
        seconds = _rfc3339(cell)
    if isinstance(cell, bool) or not 0 <= seconds < LATEST_EVENT_TIME:
        message = f"{cell!r} is neither RFC 3339, which has Z or an offset at its end, nor Unix seconds"
        raise _Bad("event_time", message, "event_time")
    if seconds > now + AHEAD_SECONDS:
        message = f"{cell!r} is in the future: such a value would be of age zero, and newer ones left out, until then"
        raise _Bad("event_time", message, "event_time")
    return seconds


def _rfc3339(cell: Any) -> float:
    """Unix seconds; NaN for anything that is no instant (a time without an offset is none)."""
    try:
        instant = datetime.fromisoformat(cell)
    except (TypeError, ValueError):
        return math.nan
    return instant.timestamp() if instant.tzinfo else math.nan
