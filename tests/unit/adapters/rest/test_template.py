"""A template is refused where it could not mean anything, with file, line and field, before anything is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.adapters.rest.template_file import bundled, read_template
from extproc.errors import InvalidInput
from extproc.plugins import FEATURES, open_adapter

GOOD: dict[str, Any] = {
    "request": {"path": "/f", "body": {"user": "{{join_keys.user}}"}},
    "response": {"value": "/features/{{feature}}"},
}


def template(tmp_path: Path, changes: dict[str, Any]) -> Path:
    """A good template, but for ``changes``, by dotted field."""
    document = yaml.safe_load(yaml.safe_dump(GOOD))
    for field, value in changes.items():
        *parts, last = field.split(".")
        place = document
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    file = tmp_path / "template.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def refusal(tmp_path: Path, changes: dict[str, Any]) -> list[tuple[str, str | None]]:
    file = template(tmp_path, changes)
    with pytest.raises(InvalidInput) as refused:
        read_template(str(file), "--features")
    assert {fault.file for fault in refused.value.faults} == {str(file)}
    assert all(fault.line for fault in refused.value.faults)
    return [(fault.code, fault.field) for fault in refused.value.faults]


def test_a_good_one_is_read(tmp_path: Path) -> None:
    assert read_template(str(template(tmp_path, {})), "--features").request.method == "POST"


@pytest.mark.parametrize("name", bundled())
def test_those_that_come_with_dropout_are_good(name: str) -> None:
    assert read_template(name, "--features").response.value


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"request.bodi": 1}, "unknown_field", "request.bodi"),
        ({"respons": {}}, "unknown_field", "respons"),
        ({"response": {}}, "missing_field", "response.value"),
        ({"request.batch": 0}, "invalid_value", "request.batch"),
        ({"request.batch": "2"}, "mistyped_value", "request.batch"),
        ({"request.method": "PUT"}, "invalid_value", "request.method"),
        ({"request.method": "GET"}, "invalid_value", "request.body"),
        ({"request.path": "f"}, "invalid_value", "request.path"),
        ({"request.path": "/a?b=c"}, "invalid_value", "request.path"),
        ({"request.path": "/a/../b"}, "invalid_value", "request.path"),
        ({"request.path": "/a b"}, "invalid_value", "request.path"),
        ({"request.path": "/{{veiw}}"}, "template_placeholder", "request.path"),
        ({"request.path": "/{{features}}"}, "template_placeholder", "request.path"),
        ({"request.path": "/{{token}}"}, "template_placeholder", "request.path"),
        ({"request.path": "/{{feature}}"}, "template_placeholder", "request.path"),
        ({"request.path": "/{{view}"}, "template_placeholder", "request.path"),
        ({"request.path": "/{{join_keys.a}}-{{join_keys.b}}"}, "template_placeholder", "request.path"),
        ({"request.query": {"q": "{{feature}}"}}, "template_placeholder", "request.query"),
        ({"request.headers": {"x-a": "{{entity}}{{view}}"}}, "template_placeholder", "request.headers.x-a"),
        ({"request.headers": {"x-a": "a\nb"}}, "invalid_value", "request.headers.x-a"),
        ({"request.headers": {"x a": "b"}}, "invalid_value", "request.headers['x a']"),
        ({"request.headers": {"Host": "b"}}, "invalid_value", "request.headers.Host"),
        ({"request.body.user": "{{user}}"}, "template_placeholder", "request.body.user"),
        ({"request.body.user": "{{view}}/{{entity}}"}, "template_placeholder", "request.body.user"),
        ({"request.body.user": "of {{join_keys}}"}, "template_placeholder", "request.body.user"),
        ({"request.body.more": ["{{parameters.x}}"]}, "template_placeholder", "request.body.more[0]"),
        ({"request.body": {"{{view}}": "{{entity}}"}}, "template_placeholder", "request.body['{{view}}']"),
        ({"request.body": {"all": "{{features}}"}}, "template_placeholder", "request"),
        ({"request.batch": 2}, "template_placeholder", "request.body"),
        ({"request.batch": 2, "request.body.user": "{{columns}}"}, "invalid_value", "response.value"),
        ({"response.value": "features"}, "invalid_value", "response.value"),
        ({"response.value": "/~2"}, "invalid_value", "response.value"),
        ({"response.value": "/{{join_key}}"}, "invalid_value", "response.value"),
        ({"response.value": "/{{view}}__{{feature}}"}, "invalid_value", "response.value"),
        ({"response.value": "/{{column}}"}, "invalid_value", "response.name"),
        ({"response.name": "/names"}, "invalid_value", "response.name"),
        ({"response.feature": "{{entity}}"}, "template_placeholder", "response.feature"),
        ({"response.time": {"at": "/at", "format": "iso"}}, "invalid_value", "response.time.format"),
        ({"response.status": {"at": "/at", "present": []}}, "invalid_value", "response.status.present"),
        ({"response.absent": [200]}, "invalid_value", "response.absent[0]"),
        ({"views": {"v": {"joinKeys": {"a": "int"}, "features": {"b": "any"}}}}, "invalid_value", "views.v.joinKeys.a"),
        ({"views": {"v": {"joinKeys": {"a": "string"}, "features": {}}}}, "invalid_value", "views.v.features"),
        ({"parameters": ["A B"]}, "invalid_value", "parameters[0]"),
        ({"parameters": ["token-file"]}, "invalid_value", "parameters[0]"),
    ],
)
def test_what_means_nothing_is_refused_where_it_stands(
    changes: dict[str, Any], code: str, field: str, tmp_path: Path
) -> None:
    assert (code, field) in refusal(tmp_path, changes)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "template_invalid"),
        ("a: 1\n---\nb: 2\n", "template_invalid"),
        ("- 1", "mistyped_value"),
        ("request: {", "yaml_syntax"),
        ("request: 1\nrequest: 2", "duplicate_key"),
        ("a: &a [*a]", "yaml_syntax"),
        ("\xff", "mistyped_value"),
    ],
)
def test_what_is_no_template_is_refused(text: str, code: str, tmp_path: Path) -> None:
    file = tmp_path / "template.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read_template(str(file), "--features")
    assert refused.value.code == code


def test_a_name_that_was_meant_is_offered(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="did you mean 'body'"):
        read_template(str(template(tmp_path, {"request.bodi": 1})), "--features")
    with pytest.raises(InvalidInput, match="did you mean 'feast'"):
        read_template("faest", "--features")
    with pytest.raises(InvalidInput, match=r"did you mean \{\{features\}\}"):
        read_template(str(template(tmp_path, {"request.body.names": "{{featurs}}"})), "--features")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://host", "url_invalid"),
        ("https://?template=feast", "url_invalid"),
        ("https://me@host?template=feast", "url_invalid"),
        ("https://me:secret@host?template=feast", "secret_in_url"),
        ("http://host?template=nowhere.yaml", "file_unreadable"),
        ("http://host?template=feast&tokenfile=x", "url_parameter"),
        ("http://host?template=feast&template=tecton", "url_parameter"),
        ("http://host?template=feast&ca=x", "url_invalid"),
        ("http://host?template=tecton", "url_parameter"),
        ("http://host?template=tecton&workspace=", "url_parameter"),
        ("http://host?template=tecton&workspace=prod", "url_parameter"),
        ("http://host?template=feast#x", "url_invalid"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused(url: str, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        open_adapter(FEATURES, url, "--features")
    assert refused.value.code == code
    assert "secret@" not in str(refused.value)
