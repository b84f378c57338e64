"""Numbers, truth and absence are read in the spellings of the programs that write CSV; what is unclear is refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapters.file.feature_cells import BadCell, parse_types, read_cell
from extproc.adapters.file.features import read_feature_file
from extproc.adapters.sqlite.features import ABSENT, open_features
from extproc.cli.main import main
from extproc.errors import InvalidInput

HEADER = "entity,view,name,value\n"

# As pandas 3.1.1 writes them: DataFrame.to_csv(index=False), of float64 and nullable booleans; with sep=";",
# decimal=",", na_rep="NaN", encoding="utf-8-sig" and lineterminator="\r\n"; with na_rep="<NA>".
PANDAS = (
    "entity,view,name,value\na,v,risk,0.1\nb,v,risk,1e-07\nc,v,risk,\nd,v,risk,100000.0\n"
    "a,v,vip,True\nb,v,vip,False\nc,v,vip,\n"
)
PANDAS_COMMA = "\ufeffentity;view;name;value\r\na;v;risk;0,1\r\nb;v;risk;1e-07\r\nc;v;risk;NaN\r\nd;v;risk;100000,0\r\n"
PANDAS_NA = "entity,view,name,value\na,v,vip,True\nb,v,vip,False\nc,v,vip,<NA>\n"
# As the manual of R says: write.csv(row.names = FALSE) quotes all text, writes 15 significant digits, TRUE and NA;
# write.csv2 has semicolons and decimal commas.
R = (
    '"entity","view","name","value"\n'
    '"a","v","risk",0.1\n"b","v","risk",1e-07\n"c","v","risk",NA\n"d","v","risk",1e+05\n'
)
R_LOGICAL = '"entity","view","name","value"\n"a","v","vip",TRUE\n"b","v","vip",FALSE\n"c","v","vip",NA\n'
R_COMMA = R.replace(",", ";").replace("0.1", "0,1")
# As a spreadsheet saves a sheet, in a country of points and in one of commas.
SHEET = (
    "\ufeffentity,view,name,value\r\na,v,risk,.1\r\nb,v,risk,1.00E-07\r\nc,v,risk,#N/A\r\nd,v,risk,1E+05\r\n"
    "a,v,vip,TRUE\r\nb,v,vip,FALSE\r\nc,v,vip,\r\n"
)
SHEET_COMMA = "entity;view;name;value\r\na;v;risk;+0,1\r\nb;v;risk;1,00E-07\r\nc;v;risk;\r\nd;v;risk;100000\r\n"

RISKS = {"a": 0.1, "b": 1e-7, "c": ABSENT, "d": 100000}
VIPS = {"a": True, "b": False, "c": ABSENT}


def load(tmp_path: Path, text: str, **types: str) -> list[Any]:
    file = tmp_path / "f.csv"
    file.write_bytes(text.encode())
    return read_feature_file(file, 0.0, types)


def refused(tmp_path: Path, text: str, **types: str) -> list[tuple[str, int | None, str | None]]:
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, text, **types)
    return [(fault.code, fault.line, fault.field) for fault in caught.value.faults]


def column(*cells: str) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([f"u{i}", "v", "n", cell] for i, cell in enumerate(cells))
    return HEADER + out.getvalue()


@pytest.mark.parametrize(
    "text", [PANDAS, PANDAS_COMMA, PANDAS_NA, R, R_LOGICAL, R_COMMA, SHEET, SHEET_COMMA], ids=lambda text: text[:30]
)
def test_what_other_programs_write_is_what_they_meant(tmp_path: Path, text: str) -> None:
    found: dict[str, dict[str, Any]] = {}
    for record in load(tmp_path, text):
        found.setdefault(record.name, {})[record.entity] = record.value
    assert found
    assert all(values == {"risk": RISKS, "vip": VIPS}[name] for name, values in found.items())
    assert all(type(value) is bool or value is ABSENT for value in found.get("vip", {}).values())


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1", 1), ("-1", -1), ("+1", 1), ("0", 0), (".10", 0.1), ("+0.95", 0.95), ("-.5", -0.5), ("1.", 1.0),
        ("1E+05", 1e5),
        (" 0.5 ", 0.5), ("18446744073709551615", 2**64 - 1), ("True", True), ("FALSE", False), ("true", True),
        ("", ABSENT), ("NA", ABSENT), ("<NA>", ABSENT), ("nan", ABSENT), ("NaN", ABSENT), ("NULL", ABSENT),
        ("#N/A", ABSENT),
        ("007", "007"), ("de", "de"), ('"5"', "5"), ("1.2.3", "1.2.3"), ("2026-11-01", "2026-11-01"),
        ("22:00", "22:00"),
        ("a\u2028b", "a\u2028b"), ("a\x85b", "a\x85b"), ("a\vb", "a\vb"), ("[1]", "[1]"), ("yes", "yes"),
        ("nano", "nano"),
    ],
)  # fmt: skip
def test_a_cell_is_a_number_truth_nothing_or_text(tmp_path: Path, cell: str, value: Any) -> None:
    (record,) = load(tmp_path, column(cell))
    assert record.value == value
    assert type(record.value) is type(value)


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("1,234.5", "value_unclear"), ("0,95", "value_unclear"), ("1.234,5", "value_unclear"), ("12%", "value_unclear"),
        ("1 234", "value_unclear"), ("1'234.5", "value_unclear"), ("1_000", "value_unclear"), ("$5", "value_unclear"),
        ("\u22120.5", "value_unclear"), ("123456789012345678901", "value_unclear"), ("#DIV/0!", "value_unclear"),
        ("inf", "value_not_finite"), ("-Inf", "value_not_finite"), ("1e999", "value_not_finite"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_line_and_column(tmp_path: Path, cell: str, code: str) -> None:
    assert refused(tmp_path, column("0.5", cell)) == [(code, 3, "value")]


def test_cells_of_one_feature_are_of_one_type(tmp_path: Path) -> None:
    assert refused(tmp_path, column("12345", "01234", "True")) == [
        ("value_type", 3, "value"),
        ("value_type", 4, "value"),
    ]
    assert refused(tmp_path, column("NA", "DE", "NULL")) == [
        ("value_unclear", 2, "value"),
        ("value_unclear", 4, "value"),
    ]
    other = HEADER + "u,v,a,1\nu,v,b,x\nu,w,a,y\n"
    assert [record.value for record in load(tmp_path, other)] == [1, "x", "y"]
    comma = "entity;view;name;value\nu;v;n;0,5\nu;v;m;0.5\n"
    assert refused(tmp_path, comma) == [("decimal_sign", 3, "value")]


def test_types_say_what_could_be_two_things(tmp_path: Path) -> None:
    def values(text: str, kind: str) -> list[Any]:
        return [record.value for record in load(tmp_path, text, n=kind)]

    assert values(column("12345", "01234", "True", "", "NA", "0,95"), "text") == [
        "12345", "01234", "True", ABSENT, "NA", "0,95"
    ]  # fmt: skip
    assert values(column("1", "0", "True", "FALSE", "NA"), "boolean") == [True, False, True, False, ABSENT]
    assert values(column("007", "1.5", "nan"), "number") == [7, 1.5, ABSENT]
    assert refused(tmp_path, column("1", "x", "2"), n="number") == [("value_type", 3, "value")]
    assert refused(tmp_path, column("yes"), n="boolean") == [("value_type", 2, "value")]


@pytest.mark.parametrize("entity", ["1e+05", "1001.0", "1.5e+10"])
def test_an_id_that_a_program_took_for_a_number_is_refused(tmp_path: Path, entity: str) -> None:
    text = f"{HEADER}{entity},v,n,1\n"
    assert refused(tmp_path, text) == [("entity_unclear", 2, "entity")]
    (record,) = load(tmp_path, text, entity="text")
    assert record.entity == entity


@pytest.mark.parametrize(
    "text", [",entity,view,name,value\n0,u,v,n,1\n", '"","entity","view","name","value"\n"1","u","v","n",1\n']
)
def test_the_numbers_of_rows_that_pandas_and_r_write_are_told_to_be_left_out(tmp_path: Path, text: str) -> None:
    assert refused(tmp_path, text) == [("unknown_field", 1, None)]


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64 - 1) | st.booleans())
def test_what_python_writes_is_read_back(value: float | bool) -> None:
    cell = read_cell(str(value), comma=False)
    assert cell.value == value
    assert (cell.kind == "boolean") == isinstance(value, bool)


@given(st.text(max_size=20), st.booleans())
def test_any_cell_is_read_as_json_can_say_it_or_refused(text: str, comma: bool) -> None:
    try:
        value = read_cell(text, comma=comma).value
    except BadCell:
        return
    assert value is ABSENT or json.loads(json.dumps(value, allow_nan=False)) == value


@pytest.mark.parametrize("text", ["risk", "risk=float", "=text", "risk=number,risk=text", "", "risk=number,"])
def test_types_are_names_with_types(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_types(text)


def test_an_empty_cell_takes_a_value_away_unless_that_is_newer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:{tmp_path / 'f.db'}"

    def loaded(text: str, *options: str) -> tuple[int | str | None, Any]:
        (tmp_path / "f.csv").write_text("entity,view,name,value,event_time\n" + text)
        with pytest.raises(SystemExit) as ended:
            main(["features", "load", str(tmp_path / "f.csv"), "--features", url, "-o", "json", *options])
        return ended.value.code, json.loads(capsys.readouterr().out)

    types = {"v": {"n": ["number"], "m": ["number"]}}
    counts = {"read": 2, "written": 2, "older": 0, "absent": 0}
    assert loaded("u,v,n,0.9,100\nu,v,m,1,100\n") == (0, {**counts, "types": types, "notes": []})
    counts = {"read": 3, "written": 0, "older": 0, "absent": 3}
    assert loaded("u,v,n,,200\nu,v,m,,50\nw,v,n,NA,1\n") == (0, {**counts, "types": {}, "notes": []})
    store = open_features(url)
    assert list(store.read_entity("v", "u")) == ["m"]
    store.close()
    code, answer = loaded("u,v,n,1,300\n", "--types", "nn=number")
    assert (code, answer["errors"][0]["code"]) == (2, "types_unused")
