"""What is sent for an entity, and that an entity, whatever it is, never leaves its place in it."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapters.rest.asking import RequestTemplate, RestRequest
from extproc.adapters.rest.template import RequestSpec
from extproc.adapters.rest.template_file import read_template
from extproc.datapath.ports import FeatureKey
from extproc.errors import InvalidInput
from extproc.snapshot.model import FeatureView

VIEW = FeatureView("user_risk", ("score", "country"), ("user", "shop"))
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
ENTITIES = st.tuples(TEXTS | st.integers(-(1 << 63), (1 << 63) - 1), TEXTS)


def asked(spec: dict[str, object], *entities: tuple[str | int, ...], view: FeatureView = VIEW) -> RestRequest:
    asking = RequestTemplate(RequestSpec.model_validate(spec), "http://host/base", {"space": "a&b"})
    return asking.question([FeatureKey(view, entity) for entity in entities], "geheim")


def body(value: object, *entities: tuple[str | int, ...], **more: object) -> object:
    content = asked({"path": "/f", "body": value, **more}, *entities).body
    assert content is not None
    return orjson.loads(content)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{{view}}", "user_risk"),
        ("{{features}}", ["score", "country"]),
        (["{{view}}:{{feature}}"], ["user_risk:score", "user_risk:country"]),
        ("{{join_keys}}", {"user": 7, "shop": "a"}),
        ("{{join_keys.user}}", 7),
        ("user-{{join_keys.user}}", "user-7"),
        ("{{entity}}", "7|a"),
        ("{{columns}}", {"user": [7, 8], "shop": ["a", "b"]}),
        (["{{join_keys}}"], [{"user": 7, "shop": "a"}, {"user": 8, "shop": "b"}]),
        ({"ids": ["{{ join_keys.user }}"]}, {"ids": [7, 8]}),
        ([{"id": "{{join_keys.shop}}", "of": ["{{feature}}"]}], [{"id": s, "of": ["score", "country"]} for s in "ab"]),
        (
            [{"id": "{{join_keys.shop}}", "of": "{{feature}}"}],
            [{"id": s, "of": f} for s in "ab" for f in ("score", "country")],
        ),
        (["x", 1, None, True, {"{": "}"}], ["x", 1, None, True, {"{": "}"}]),
        ("{{parameters.space}}", "a&b"),
    ],
)
def test_placeholders_of_a_body_are_values_of_their_type(value: object, expected: object) -> None:
    assert body(value, (7, "a"), (8, "b")) == expected


def test_a_whole_number_is_a_text_where_the_store_wants_it_so() -> None:
    assert body("{{join_keys}}", ((1 << 63) - 1, "a"), integers="string") == {"user": str((1 << 63) - 1), "shop": "a"}


@given(ENTITIES)
def test_an_entity_is_one_value_of_the_body(entity: tuple[str | int, str]) -> None:
    sent = body({"a": "{{join_keys}}", "b": "x{{join_keys.user}}y", "c": "{{entity}}"}, entity)
    text = FeatureKey(VIEW, entity).text
    assert sent == {"a": {"user": entity[0], "shop": entity[1]}, "b": f"x{entity[0]}y", "c": text}


@given(ENTITIES)
def test_an_entity_is_one_part_of_a_path_and_one_value_of_a_query_or_a_header(entity: tuple[str | int, str]) -> None:
    spec = {
        "path": "/views/{{view}}/users/u-{{join_keys.user}}/{{join_keys.shop}}",
        "query": {"u": "{{join_keys.user}}", "f": ["{{feature}}"], "s p": "{{parameters.space}}"},
        "headers": {"X-User": "{{join_keys.user}}", "authorization": "Key {{token}}"},
    }
    pieces = [piece for value in entity for piece in str(value).replace("\\", "/").split("/")]
    if any(piece in (".", "..") for piece in pieces) or not all(map(str, entity)):
        with pytest.raises(InvalidInput) as refused:
            asked(spec, entity)
        assert refused.value.code == "features_entity"
        return
    question = asked(spec, entity)
    parts = urlsplit(question.url)
    assert question.url.isascii()
    assert question.url.isprintable()
    assert parts.netloc == "host"
    assert [unquote(part) for part in parts.path.split("/")] == [
        *("", "base", "views", "user_risk", "users", f"u-{entity[0]}", entity[1])
    ]
    assert parse_qsl(parts.query, keep_blank_values=True) == [
        *(("u", str(entity[0])), ("f", "score"), ("f", "country"), ("s p", "a&b"))
    ]
    assert parts.fragment == ""
    assert question.headers.keys() == {"x-user", "authorization"}
    assert question.headers["authorization"] == "Key geheim"
    assert question.headers["x-user"].isascii()
    assert question.headers["x-user"].isprintable()
    assert unquote(question.headers["x-user"]) == str(entity[0])


@given(ENTITIES, ENTITIES)
def test_no_two_entities_are_asked_about_in_the_same_words(one: tuple[str | int, str], other: tuple[str, str]) -> None:
    for spec in ({"path": "/f", "body": "{{entity}}"}, {"path": "/f", "query": {"e": "{{entity}}"}}):
        if FeatureKey(VIEW, one).text != FeatureKey(VIEW, other).text:
            assert asked(spec, one) != asked(spec, other)


@pytest.mark.parametrize("value", ["", ".", "..", "../admin", "a/../b", "a\\..\\b", "..\\"])
def test_a_value_that_leads_elsewhere_in_a_path_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        asked({"path": "/users/{{join_keys.user}}"}, (value, "a"))
    assert refused.value.code == "features_entity"


def test_what_is_no_unicode_is_refused() -> None:
    for spec in ({"path": "/f", "body": "{{entity}}"}, {"path": "/{{join_keys.user}}"}):
        with pytest.raises(InvalidInput) as refused:
            asked(spec, ("\ud800", "a"))
        assert refused.value.code == "features_entity"


@pytest.mark.parametrize(
    ("text", "join_keys", "said"),
    [
        ("{{join_keys.user}}", ("user",), None),
        ("{{join_keys.user}}", ("user", "shop"), "does not send the join key 'shop'"),
        ("{{join_keys.user}}", ("usr",), "has no join key 'user', which is to be sent; did you mean 'usr'?"),
        ("{{entity}}", ("user", "shop"), None),
        ("{{join_keys}}", ("user", "shop"), None),
        ("{{columns}}", ("user", "shop"), None),
    ],
)
def test_every_join_key_is_sent_and_no_other(text: str, join_keys: tuple[str, ...], said: str | None) -> None:
    asking = RequestTemplate(RequestSpec.model_validate({"path": "/f", "body": {"x": text}}), "http://host", {})
    found = asking.lacks(FeatureView("user_risk", ("score",), join_keys), "the store")
    assert [(fault.code, (said or "") in fault.message) for fault in found] == [("join_key_unknown", True)] * bool(said)


def test_the_questions_of_the_templates_that_come_with_dropout() -> None:
    view = FeatureView("user_risk", ("score", "tries"), ("user_id",))
    sent = {}
    for name in ("feast", "databricks", "tecton"):
        asking = RequestTemplate(read_template(name, "--features").request, "https://host", {"workspace": "prod"})
        question = asking.question([FeatureKey(view, (7,))], "geheim")
        assert (question.method, asking.shows_token) == ("POST", name == "tecton")
        sent[name] = (question.url.removeprefix("https://host"), orjson.loads(question.body or b""))
    assert sent["feast"] == (
        "/get-online-features",
        {
            "features": ["user_risk:score", "user_risk:tries"],
            "entities": {"user_id": [7]},
            "full_feature_names": True,
        },
    )
    assert sent["databricks"] == (
        "/serving-endpoints/user_risk/invocations",
        {"dataframe_records": [{"user_id": 7}]},
    )
    path, params = sent["tecton"]
    assert path == "/api/v1/feature-service/get-features"
    assert {name: params["params"][name] for name in ("workspaceName", "featureServiceName", "joinKeyMap")} == {
        "workspaceName": "prod",
        "featureServiceName": "user_risk",
        "joinKeyMap": {"user_id": "7"},
    }
