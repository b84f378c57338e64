"""A backup: a store and its state in a folder, taken while Dropout runs and put back while it does not.

The folder has a list of what is in it, with digests, which is written last: without it the folder is no backup.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import orjson

from extproc.adapters.sqlite.file import SqliteFile
from extproc.adapters.sqlite.observations import end_runs
from extproc.adapters.sqlite.store import store_file
from extproc.adapters.stores import open_store
from extproc.errors import InvalidInput, Refused, Unreachable
from extproc.files import read_regular, why_not
from extproc.key_files import MOST_BYTES, make_private_folder, why_untrusted
from extproc.serve.hosts import HostSockets
from extproc.serve.supervisor.safety_file import FILE_BYTES, SafetyFile, peek
from extproc.snapshot.held import Held, joined
from extproc.state import StateFolder

_LIST: Final = "backup.json"
_LIST_BYTES: Final = 1 << 20
_VERSION: Final = 1
_WAIT_SECONDS: Final = 5.0

_STORE: Final = "store"
_DATABASES: Final = ("feedback", "observed", _STORE)
"""The SQLite files in the order of their copies: what was counted is of epochs that the store, the last, knows."""

_SECRETS: Final = ("ids", "key", "token")
_SAFETY: Final = "safety"

_COPIED: Final = (*_DATABASES, *_SECRETS)

_LISTED: Final = (*_COPIED, _SAFETY)

Files = Mapping[str, Path]
"""The files of a store and its state, by their names in a backup."""


class Backup(NamedTuple):
    """What a backup has: when it was made (Unix seconds), and the digests (SHA-256) of its files by their names."""

    at: float
    digests: Mapping[str, str]


class Restored(NamedTuple):
    """The backup that was put back, and the names of the parts that it lacked and that were removed."""

    backup: Backup
    removed: Sequence[str]


def back_up(store: str, state: StateFolder, folder: Path, at: float) -> Backup:
    """Copy the store at the URL ``store`` and ``state`` into ``folder``, which is made, or empty.

    Raises:
        InvalidInput: ``store_url``; ``backup_unusable``, ``backup_untrusted`` or ``backup_exists``, of the folder.
        Unreachable: as ``open_store``; ``backup_failed`` when something can be neither read nor written.
    """
    open_store(store).close()
    make_private_folder(folder, "backup", "DIR", "backup_unusable", "backup_untrusted")
    if any(folder.iterdir()):
        message = "there is something in the folder; a backup has one of its own"
        raise InvalidInput.of("backup_exists", message, file=str(folder), field="DIR")
    source, target = _files(store_file(store, "--store"), state), _within(folder)
    with _mapped("backup_failed", source[_SAFETY]):
        _keep(_held(source[_SAFETY]), target[_SAFETY])  # first: what it says that the store has, the copy has too
    for name in (name for name in _COPIED if source[name].exists()):
        with _mapped("backup_failed", source[name]):
            if name in _DATABASES:
                _file(source[name]).copy_to(target[name])
            else:
                _write(target[name], read_regular(source[name], MOST_BYTES))
    with _mapped("backup_failed", folder):
        backup = Backup(at, {name: _digest(target[name]) for name in _LISTED if target[name].exists()})
        _write(folder / _LIST, orjson.dumps({"version": _VERSION, **backup._asdict()}))
        _sync(folder)
    return backup


def restore(folder: Path, store: str, state: StateFolder, *, replace: bool) -> Restored:
    """Put the backup in ``folder`` in the place of the store at the URL ``store`` and of its ``state``.

    A part of them that the backup lacks is removed: labels, counts and keys of one store mean nothing in another.
    Kills and trips that this host holds are kept beside those of the backup, and the store is told of all of them
    again. The observers of the backup are over: nobody waits for them.

    Raises:
        InvalidInput: ``store_url``; ``backup_missing``, ``backup_untrusted``, ``backup_unknown`` or
            ``backup_damaged``, of the folder.
        Refused: ``store_in_use`` while anything works on the store or its state; ``store_exists`` when there is one
            and it is not to be replaced.
        Unreachable: ``restore_failed`` when something can be neither read nor written.
    """
    backup, source, target = _read_list(folder), _within(folder), _files(store_file(store, "--store"), state)
    _check_free(target, state, replace=replace)
    with _mapped("restore_failed", source[_SAFETY]):
        if _SAFETY in backup.digests:
            _check(source[_SAFETY], source[_SAFETY], backup.digests[_SAFETY])
        kept = _held(source[_SAFETY])
    with _mapped("restore_failed", target[_SAFETY]):
        held = _joined(kept, _held(target[_SAFETY]))
    drafts = {name: target[name].with_name(f".{target[name].name}.restored") for name in (*backup.digests, _SAFETY)}
    try:
        for name in (name for name in _COPIED if name in backup.digests):
            with _mapped("restore_failed", target[name]):
                _copy_checked(source[name], drafts[name], backup.digests[name])
        with _mapped("restore_failed", target[_SAFETY]):
            _keep(held, drafts[_SAFETY])
        if "observed" in drafts:
            end_runs(drafts["observed"])
        for name in (name for name in drafts if drafts[name].exists()):
            with _mapped("restore_failed", target[name]):
                _put(drafts[name], target[name])
        removed = [name for name in _COPIED if name not in backup.digests and target[name].exists()]
        for name in removed:
            with _mapped("restore_failed", target[name]):
                _remove(target[name])
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
    return Restored(backup, removed)


def _files(store: Path, state: StateFolder) -> Files:
    return {
        _STORE: store,
        "feedback": state.feedback,
        "observed": state.observed,
        "ids": state.ids,
        "key": state.pseudonyms,
        "token": state.token,
        _SAFETY: state.safety,
    }


def _within(folder: Path) -> Files:
    return _files(folder / _STORE, StateFolder(f"{folder}/"))


def _read_list(folder: Path) -> Backup:
    path = folder / _LIST
    try:
        if (why := why_untrusted(path)) is not None:
            raise InvalidInput.of("backup_untrusted", f"the backup may be somebody else's: {why}", file=str(path))
        found: Any = orjson.loads(read_regular(path, _LIST_BYTES))
    except FileNotFoundError:
        message = "there is no backup here, or one that was not finished"
        raise InvalidInput.of("backup_missing", message, file=str(path), field="DIR") from None
    except (OSError, ValueError) as error:
        raise InvalidInput.of("backup_damaged", f"the list cannot be read: {error}", file=str(path)) from error
    try:
        backup = Backup(float(found["at"]), {str(name): str(digest) for name, digest in found["digests"].items()})
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput.of("backup_damaged", "the list is none of a backup", file=str(path)) from error
    if found.get("version") != _VERSION or not {_STORE} <= backup.digests.keys() <= set(_LISTED):
        message = "this version of dropout does not read it; use the one that made it"
        raise InvalidInput.of("backup_unknown", message, file=str(path))
    return backup


def _check_free(target: Files, state: StateFolder, *, replace: bool) -> None:
    """See that nobody works on what is there, and that it may go."""
    there = [name for name in dict.fromkeys((_STORE, *_COPIED)) if target[name].exists()]  # it is what is meant
    with _mapped("restore_failed", target[_STORE]):
        used = next((target[name] for name in there if name in _DATABASES and _file(target[name]).is_in_use()), None)
    if used is not None or HostSockets(state.serving).alive():
        message = "something works on the store or its state; stop every serve and controller, and try again"
        raise Refused.of("store_in_use", message, file=str(used or state.serving))
    if there and not replace:
        message = "there is a store, or a part of its state; with --replace the backup takes its place"
        raise Refused.of("store_exists", message, file=str(target[there[0]]))


def _joined(backup: Held, here: Held) -> Held:
    """What both hold; whether the restored store has it is to be seen."""
    return {
        key: joined(backup.get(key), here.get(key) or backup[key])._replace(stored=False) for key in {**backup, **here}
    }


def _held(path: Path) -> Held:
    """What is in the file at ``path``. Raises ``OSError`` for one that cannot be read: that is not nothing."""
    if path.exists():
        read_regular(path, FILE_BYTES)
    return peek(path)


def _keep(held: Held, path: Path) -> None:
    """Make the file ``path`` hold it, if it is anything."""
    path.unlink(missing_ok=True)
    if held:
        with closing(SafetyFile(path, lambda _line: None)) as file:
            file.update(held, ())


def _copy_checked(path: Path, copy: Path, digest: str) -> None:
    copy.unlink(missing_ok=True)
    with path.open("rb") as source, _private(copy) as target:
        shutil.copyfileobj(source, target)
    _check(copy, path, digest)


def _check(copy: Path, path: Path, digest: str) -> None:
    """See that ``copy``, of the backup's file ``path``, is what was backed up."""
    if _digest(copy) != digest:
        raise InvalidInput.of("backup_damaged", "this is not what was backed up", file=str(path))


def _put(draft: Path, path: Path) -> None:
    """Put it in the place of what is there; no log of that may be left, which SQLite would play into it."""
    _remove(path)
    draft.replace(path)
    _sync(path.parent)


def _remove(path: Path) -> None:
    for part in _file(path).parts():
        part.unlink(missing_ok=True)
    _sync(path.parent)


def _file(path: Path) -> SqliteFile:
    return SqliteFile(path, "backup", _WAIT_SECONDS)


def _write(path: Path, content: bytes) -> None:
    with _private(path) as file:
        file.write(content)


@contextmanager
def _private(path: Path) -> Iterator[BinaryIO]:
    """A new file for who the folder belongs to alone, on the disk at the end."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        if os.geteuid() == 0:
            owner = path.parent.stat()
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        yield file
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _mapped(code: str, path: Path) -> Iterator[None]:
    """The system's and SQLite's errors as faults of the file ``path``."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        why = why_not(error, path) if isinstance(error, OSError) else str(error)
        raise Unreachable.of(code, f"it cannot be copied: {why}", file=str(path)) from error
