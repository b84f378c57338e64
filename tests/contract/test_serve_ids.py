"""The ids that ``dropout serve`` gives out: opened with the keys beside its store, in every worker."""

from __future__ import annotations

import signal
import stat
from contextlib import suppress
from pathlib import Path

from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.decision_id import IdKeys, KeyFile, Opened, open_id
from tests.support.dropout import DropoutServer, wait_for


def key_file(server: DropoutServer) -> Path:
    return server.folder / "dropout.db.ids"


def another_key(file: Path) -> str:
    """A key whose fingerprint, one byte, is none of those in ``file``."""
    held = [bytes.fromhex(line) for line in file.read_text().split()]
    for number in range(2):
        new = f"{number:064x}"
        with suppress(ValueError):
            IdKeys([bytes.fromhex(new), *held])
            return new
    raise AssertionError("two keys with fingerprints of their own have both the fingerprint of a third")


def test_ids_name_their_worker_epoch_and_arm_and_keys_change_on_sighup() -> None:
    server = DropoutServer()
    server.write_rollout()
    with server:
        assert server.process is not None
        file = key_file(server)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        keys = KeyFile(file, SystemClock())
        (epoch,) = open_store(server.store).epochs_of("payments", "fraud-detector")
        for worker in (0, 1):
            said = keys.open(server.ask(worker=worker)["x-decision-id"])
            assert isinstance(said, Opened)
            assert (said.worker, said.number, said.arm) == (worker, epoch.number, 1)
        key = another_key(file)
        server.write(file, f"{key}\n{file.read_text()}")
        server.process.send_signal(signal.SIGHUP)
        new = IdKeys([bytes.fromhex(key)])

        def renewed() -> bool:
            made = [server.ask(worker=worker)["x-decision-id"] for worker in (0, 1)]
            return all(isinstance(open_id(new, text), Opened) for text in made)

        wait_for(renewed, "ids made with the new key, by both workers")
        server.write(file, "nonsense\n")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "keys of decision ids stay as they were" in server.log(), "a warning about the keys")
        assert isinstance(open_id(new, server.ask()["x-decision-id"]), Opened)


def test_keys_that_cannot_be_read_keep_serve_from_starting() -> None:
    server = DropoutServer()
    server.write_rollout()
    key_file(server).write_text("nonsense\n")
    try:
        status, said = server.refused()
    finally:
        server.__exit__(None, None, None)
    assert (status, "(key_invalid)" in said, "Traceback" in said) == (2, True, False)
