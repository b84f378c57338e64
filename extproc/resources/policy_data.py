"""Data beside policies: an object in JSON or YAML, read as OPA reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from extproc.resources.marked_yaml import DATA, read_documents


class DataError(ValueError):
    """A data file that is not JSON data; ``line`` counts from 1."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def parse_data(text: str, suffix: str) -> dict[str, Any]:
    """The object in a data file. ``suffix`` is ``.json``, ``.yaml`` or ``.yml``.

    Raises:
        DataError: it does not parse, is no object, names a key twice, or holds what JSON has no word for. What OPA
            refuses is refused, and what it reads is read as it does (but for keys that come twice, second documents,
            and tags of other types than JSON's, which it takes without a word).
    """
    try:
        document = _parse_json(text) if suffix == ".json" else _parse_yaml(text)
        # What JSON cannot say (a NaN, a lone surrogate) would come to grief in the engine.
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}", error.lineno) from None
    except UnicodeEncodeError as error:
        raise DataError(f"not text: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise DataError("nested too deeply") from None
    except DataError:
        raise
    except (TypeError, ValueError) as error:
        raise DataError(str(error)) from None
    if not isinstance(document, dict):
        raise DataError('a data file holds one object: give what is in it a name, {"name": ...}', 1)
    return document


def _parse_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise DataError(f"the key {key!r} comes twice")
            found[key] = value
        return found

    return json.loads(text, object_pairs_hook=unique)


def _parse_yaml(text: str) -> Any:
    documents, ending = read_documents(text, dialect=DATA)
    faults = [*(fault for document in documents for fault in document.faults), *ending]
    if faults:
        raise DataError(faults[0].message, faults[0].line)
    if len(documents) > 1:
        raise DataError("a data file holds one document", documents[1].node.line)
    return documents[0].node.value if documents else None


def merge(data: dict[str, Any], where: tuple[str, ...], document: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Mount ``document`` at ``where``; the first path that two files give, or None."""
    target = data
    for depth, part in enumerate(where):
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            return where[: depth + 1]
    for key, value in document.items():
        if key not in target:
            target[key] = value
        elif isinstance(value, dict) and isinstance(target[key], dict):
            clash = merge(target[key], (), value)
            if clash is not None:
                return (*where, key, *clash)
        else:
            return (*where, key)
    return None
