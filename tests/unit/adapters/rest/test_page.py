"""The page on feature stores over HTTP says what the code says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from extproc.adapters.access import PARAMETERS
from extproc.adapters.rest import pointers, texts
from extproc.adapters.rest.template import TEMPLATE, FeatureType, Template, ViewSpec
from extproc.adapters.rest.template_file import bundled, read_template
from extproc.names import Reason
from tests.support.pages import blocks, code, files_of, page, table
from tests.support.paths import ROOT

PAGE = page("adapters/rest")


def fields(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field below ``model``, dotted, with its default; ``...`` where it has none to write."""
    for name, field in model.model_fields.items():
        dotted = f"{path}{field.alias or name}"
        default = ... if field.is_required() or field.default is None else field.default
        yield dotted, default
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from fields(kind, f"{dotted}.")
    if model is Template:
        yield from fields(ViewSpec, "views.NAME.")


def test_the_fields_of_a_template_are_those_of_the_code() -> None:
    rows = table(PAGE, "field", "default", "what it is")
    written = {code(name)[0]: code(default)[0] if code(default) else "..." for name, default, _ in rows}
    known = {name: "..." if default is ... else str(default) for name, default in fields(Template)}
    assert written == known


def test_the_placeholders_are_those_of_the_code() -> None:
    rows = {code(name)[0] for name, _, _ in table(PAGE, "placeholder", "what stands for it", "where")}
    in_texts = [*texts.VALUES, *texts.WHOLE, texts.TOKEN, f"{texts.JOIN_KEY}NAME", f"{texts.PARAMETER}NAME"]
    in_pointers = [pointers.ROW, pointers.COLUMN, pointers.FEATURE, pointers.VIEW, pointers.ENTITY, pointers.KEY]
    assert rows == {*(f"{{{{{name}}}}}" for name in in_texts), *in_pointers}


def test_the_parameters_of_the_url_are_those_of_the_code() -> None:
    rows = table(PAGE, "parameter", "what it is")
    assert {each for name, _ in rows for each in code(name)} == {TEMPLATE, *PARAMETERS}


def test_every_type_of_a_feature_is_named() -> None:
    for kind in get_args(FeatureType):
        assert f"`{kind}`" in PAGE or f"`{kind.removesuffix('s')}`" in PAGE


def test_the_codes_of_what_goes_wrong_are_those_of_the_code() -> None:
    rows = table(PAGE, "what happens", "code", "reason in the decision")
    sources = [file.read_text() for file in (ROOT / "extproc" / "adapters" / "rest").glob("*.py")]
    said = {each for text in sources for each in re.findall(r'(?:\.of|Fault)\(\s*"((?:feature|join_key)\w+)"', text)}
    assert {each for _, codes, _ in rows for each in code(codes)} == said - {"features_unlisted"}
    assert {each for *_, reason in rows for each in code(reason)} == {Reason.FEATURE_STORE_DOWN, Reason.FEATURE_TYPE}


def test_the_templates_that_come_with_dropout_stand_on_the_page_as_they_are(tmp_path: Any) -> None:
    folder = ROOT / "extproc" / "adapters" / "rest" / "templates"
    assert files_of(PAGE) == {f"{name}.yaml": (folder / f"{name}.yaml").read_text() for name in bundled()}
    own = next(block.text for block in blocks(PAGE, "text") if "method: GET" in block.text)
    (tmp_path / "own.yaml").write_text(own)
    assert read_template(str(tmp_path / "own.yaml"), "--features").views
