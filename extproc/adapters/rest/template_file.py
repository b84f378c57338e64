"""Templates in files: those of an operator, and those that come with Dropout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from extproc.adapters.rest.template import Template
from extproc.adapters.rest.template_rules import template_problems
from extproc.errors import Fault, InvalidInput
from extproc.files import read_regular, why_not
from extproc.resources.faults import Problem, problems_of
from extproc.resources.marked_yaml import YamlNode, dotted, read_documents
from extproc.suggestions import did_you_mean

MAX_FILE_BYTES: Final = 1 << 20

_FOLDER: Final = Path(__file__).parent / "templates"
_MAX_PROBLEMS: Final = 100


def bundled() -> list[str]:
    """The names of the templates that come with Dropout."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def read_template(name: str, flag: str) -> Template:
    """The template that ``name`` is: one that comes with Dropout, else a file.

    Raises:
        InvalidInput: with every fault of the file.
    """
    path = _FOLDER / f"{name}.yaml" if name in bundled() else Path(name)
    try:
        text = read_regular(path, MAX_FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = why_not(error, path) if isinstance(error, OSError) else "it is no text"
        meant = did_you_mean(name, bundled()) or f"; one that comes with Dropout is {' or '.join(bundled())}"
        message = f"the template cannot be read: {why}{meant}"
        raise InvalidInput.of("file_unreadable", message, file=name, field=flag) from None
    documents, faults = read_documents(text, name)
    for document in documents:
        faults += document.faults
    if faults or len(documents) != 1:
        wrong = Fault("template_invalid", "a template is one document, a mapping with request and response", name)
        raise InvalidInput(faults or [wrong])
    return _checked(documents[0].node, name)


def _checked(node: YamlNode, file: str) -> Template:
    if not isinstance(node.value, Mapping):
        raise InvalidInput.of("mistyped_value", "a template is a mapping with request and response", file=file)
    problems: list[Problem] = []
    template: Template | None = None
    try:
        template = Template.model_validate(node.value)
        problems += template_problems(template)
    except ValidationError as error:
        problems = problems_of(error, Template, _MAX_PROBLEMS)
    if problems or template is None:
        faults = [
            Fault(p.code, p.advice(node.written_at(p.path)), file, node.at(p.path).line, dotted(p.path))
            for p in problems[:_MAX_PROBLEMS]
        ]
        raise InvalidInput(sorted(faults, key=lambda fault: fault.line or 0))
    return template
