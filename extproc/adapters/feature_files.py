"""Files of feature values: CSV with a header line, or one JSON object per line. Read whole or not at all."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from extproc.adapters.sqlite_features import FeatureRecord
from extproc.errors import Fault, InvalidInput

REQUIRED: Final = ("entity", "view", "name", "value")
COLUMNS: Final = frozenset((*REQUIRED, "event_time"))
LATEST_EVENT_TIME: Final = 253_402_300_800.0
"""The end of the year 9999; beyond it, somebody wrote milliseconds."""


class _Row(NamedTuple):
    line: int
    cells: Mapping[str, Any]


class _Bad(ValueError):
    """One cell that is wrong: code, sentence, column."""


def read_feature_file(path: Path, now: float) -> list[FeatureRecord]:
    """The records of a .csv or .jsonl file; ``now`` (Unix seconds) stands for an event time that is left out.

    A CSV cell is read as a JSON number, boolean, null or string, and as text if it is none; a value in a JSON line
    may be anything. ``event_time`` is RFC 3339 or Unix seconds.

    Raises:
        InvalidInput: with every fault of the file, its line and its column.
    """
    faults: list[Fault] = []
    records: list[FeatureRecord] = []
    for row in _rows(path, faults):
        try:
            records.append(_record(row.cells, now, parse_text=path.suffix == ".csv"))
        except _Bad as bad:
            code, message, column = bad.args
            faults.append(Fault(code, message, file=str(path), line=row.line, field=column))
    if not records and not faults:
        faults.append(Fault("file_empty", "There are no feature values in this file.", file=str(path)))
    if faults:
        raise InvalidInput(faults)
    return records


def _rows(path: Path, faults: list[Fault]) -> Iterator[_Row]:
    reader = {".csv": _csv_rows, ".jsonl": _json_rows}.get(path.suffix)
    if reader is None:
        raise InvalidInput.of("file_type", "Features are loaded from .csv and .jsonl files.", file=str(path))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput.of("file_unreadable", f"{error.strerror}.", file=str(path)) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InvalidInput.of("file_encoding", "The file is not UTF-8.", file=str(path), line=line) from error
    return reader(path, text, faults)


def _csv_rows(path: Path, text: str, faults: list[Fault]) -> Iterator[_Row]:
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
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
                message = f"There are {len(cells)} cells for {len(columns)} columns."
                faults.append(Fault("row_length", message, file=str(path), line=line))
            line = reader.line_num + 1
    except csv.Error as error:
        faults.append(Fault("csv_syntax", f"This is not CSV: {error}.", file=str(path), line=line))


def _header_faults(path: Path, columns: list[str]) -> Iterator[Fault]:
    for column in dict.fromkeys(columns):
        if column not in COLUMNS:
            yield Fault("unknown_field", f"There is no column {column!r}.", file=str(path), line=1, field=column)
        elif columns.count(column) > 1:
            yield Fault("duplicate_field", f"Column {column!r} comes twice.", file=str(path), line=1, field=column)
    for column in REQUIRED:
        if column not in columns:
            yield Fault("missing_field", f"Column {column!r} is missing.", file=str(path), line=1, field=column)


def _json_rows(path: Path, text: str, faults: list[Fault]) -> Iterator[_Row]:
    for line, source in enumerate(text.split("\n"), start=1):
        if not source.strip():
            continue
        try:
            found = orjson.loads(source)
        except orjson.JSONDecodeError as error:
            faults.append(Fault("json_syntax", f"This is not JSON: {error.msg}.", file=str(path), line=line))
            continue
        if not isinstance(found, dict):
            faults.append(Fault("wrong_type", "Each line is a JSON object.", file=str(path), line=line))
            continue
        for key in found.keys() - COLUMNS:
            faults.append(Fault("unknown_field", f"There is no key {key!r}.", file=str(path), line=line, field=key))
        yield _Row(line, found)


def _record(cells: Mapping[str, Any], now: float, *, parse_text: bool) -> FeatureRecord:
    for column in ("entity", "view", "name"):
        cell = cells.get(column)
        if not isinstance(cell, str) or not cell:
            code, wanted = ("missing_field", "is missing") if cell in (None, "") else ("wrong_type", "is not a string")
            raise _Bad(code, f"{column!r} {wanted}.", column)
    if "value" not in cells:
        raise _Bad("missing_field", "'value' is missing.", "value")
    value = _scalar(cells["value"]) if parse_text else cells["value"]
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:  # it reads deeper than it writes
        raise _Bad("value_too_deep", "The value is nested too deeply.", "value") from None
    event_time = _event_time(cells.get("event_time"), now)
    return FeatureRecord(cells["view"], cells["entity"], cells["name"], value, event_time)


def _scalar(text: str) -> Any:
    """A cell as the JSON scalar it spells, else as text."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    if isinstance(value, str):
        try:
            finite = math.isfinite(float(value))
        except ValueError:
            finite = True
        if not finite:
            raise _Bad("value_not_finite", f"{text} is not a number that JSON has.", "value")
    return text if isinstance(value, (list, dict)) else value


def _event_time(cell: Any, now: float) -> float:
    if cell in (None, ""):
        return now
    try:
        seconds = float(cell)
    except (TypeError, ValueError):
        seconds = _rfc3339(cell)
    if isinstance(cell, bool) or not 0 <= seconds < LATEST_EVENT_TIME:
        raise _Bad("event_time", f"{cell!r} is neither RFC 3339 nor Unix seconds.", "event_time")
    return seconds


def _rfc3339(cell: Any) -> float:
    """Unix seconds; NaN for anything that is no instant (a time without an offset is none)."""
    try:
        instant = datetime.fromisoformat(cell)
    except (TypeError, ValueError):
        return math.nan
    return instant.timestamp() if instant.tzinfo else math.nan
