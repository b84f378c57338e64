"""The flags of a policy shadow, checked: light to import, because ``serve`` starts its workers first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from extproc.assignment import parse_percent
from extproc.errors import InvalidInput
from extproc.run.serve_options import PolicyShadowOptions
from extproc.serve.supervisor.children import message_pair

FOLDER: Final = "--policies-shadow"
SHARE: Final = "--policies-shadow-share"


def policy_shadow(folder: Path | None, share: str | None) -> PolicyShadowOptions | None:
    """What the flags say; None without them. What is in the folder may be mended while decisions are made.

    Raises:
        InvalidInput: ``policies_shadow_incomplete``, ``policies_shadow_share``, ``policies_missing``,
            ``policy_unreadable``.
    """
    if folder is None and share is None:
        return None
    if folder is None:
        message = f"it is the share of decisions that {FOLDER} is asked about, which is not given"
        raise InvalidInput.of("policies_shadow_incomplete", message, field=SHARE)
    if share is None:
        message = f"it needs {SHARE}: the percent of decisions that it is asked about, 10 for instance"
        raise InvalidInput.of("policies_shadow_incomplete", message, field=FOLDER)
    hundredths = _share(share)
    _check_folder(folder)
    return PolicyShadowOptions(folder, hundredths, *message_pair())


def _share(text: str) -> int:
    try:
        hundredths = parse_percent(text)
    except ValueError as error:
        raise InvalidInput.of("policies_shadow_share", str(error), field=SHARE) from error
    if not hundredths:
        message = f"{text} is no share: leave {FOLDER} out, or give a number above 0 and up to 100"
        raise InvalidInput.of("policies_shadow_share", message, field=SHARE)
    return hundredths


def _check_folder(folder: Path) -> None:
    try:
        os.listdir(folder)  # noqa: PTH208 - nothing is done with them
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidInput.of(
            "policies_missing", "there is no such folder; name one with .rego files", file=str(folder), field=FOLDER
        ) from error
    except OSError as error:
        message = f"{folder} cannot be read: {error.strerror}"
        raise InvalidInput.of("policy_unreadable", message, field=FOLDER) from error
