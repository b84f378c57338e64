"""The log of long-running commands, on stderr: a line an entry, with its time, its level and who writes it.

What they say of ordinary life (a start, a policy that is taken over, a weight) is of the level ``info``. A fault is a
``warning``, and so is its end (``trouble``), so that whoever has the log show no less sees both.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import Final

import orjson

from extproc.settings import settings

_OF_OTHERS: Final = ("asyncio", "concurrent.futures", "grpc", "uvicorn", "aiohttp", "redis")
"""Loggers of libraries: what they do at ``info`` says nothing to who runs this."""

_log = logging.getLogger("dropout")


def configure_logging(process: str) -> None:
    """Write the log of this process, which calls itself ``process``: format and level are settings."""
    tuning = settings()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(process) if tuning.log_format == "json" else _Text(process))
    logging.basicConfig(handlers=[handler], level=tuning.log_level.upper(), force=True)
    for name in _OF_OTHERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, _log.getEffectiveLevel()))


def say(line: str) -> None:
    """Write a line on ordinary life."""
    _log.info("%s", line)


def warn(line: str) -> None:
    """Write a line on what is wrong, or is so no longer."""
    _log.warning("%s", line)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Text(logging.Formatter):
    """``TIME LEVEL PROCESS: message``. A line break in a message is written out, so that nobody writes a line of ours.

    The lines of a traceback follow their entry.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{_time(record)} {record.levelname.lower()} {self._process}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    """An object a line: ``time``, ``level``, ``process``, ``pid``, ``logger``, ``message``, maybe ``traceback``."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": os.getpid(),
            "logger": record.name,
            "message": record.getMessage().encode("utf-8", "replace").decode(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info).encode("utf-8", "replace").decode()
        return orjson.dumps(entry).decode()
