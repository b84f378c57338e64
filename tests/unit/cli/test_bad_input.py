"""Whatever is typed, the answer is a sentence or one JSON document with a stable code, and never a traceback."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from extproc.cli.main import COMMANDS, main
from extproc.cli.streams import CLOSED_PIPE_EXIT
from tests.support.rollouts import CANARY, document

DROPOUT = (sys.executable, "-m", "extproc.cli")
BAD_NAME = os.fsdecode(b"no-\xff")

NO_SOCKETS = ("--listen", "unix:run/w-{worker}.sock", "--admin", "127.0.0.1:0")

REFUSED: Sequence[tuple[str, int, tuple[str, ...]]] = [
    # Missing, a folder for a file, a file for a folder, bytes that are nothing.
    ("file_not_found", 2, ("validate", "nowhere.yaml")),
    ("file_unreadable", 2, ("validate", "good.yaml/x")),
    ("file_not_found", 2, ("validate", BAD_NAME)),
    ("no_documents", 2, ("validate", "folder")),
    ("not_utf8", 2, ("validate", "noise")),
    ("file_not_found", 2, ("apply", "-f", "nowhere.yaml")),
    ("no_documents", 2, ("apply", "-f", "folder")),
    ("name_invalid", 2, ("kill", BAD_NAME)),
    ("name_invalid", 2, ("get", "rollout", BAD_NAME)),
    ("policies_missing", 2, ("policy", "check", "nowhere")),
    ("policies_missing", 2, ("policy", "check", BAD_NAME)),
    ("bundle_invalid", 2, ("policy", "test", "good.yaml")),
    ("file_unreadable", 2, ("features", "load", "nowhere.csv")),
    ("file_type", 2, ("features", "load", "folder")),
    ("log_unreadable", 2, ("replay", "nowhere.log", "--policies", "policies")),
    ("log_unreadable", 2, ("replay", "folder", "--policies", "policies")),
    ("file_not_found", 2, ("explain", "--path", "/", "--rollouts", "nowhere")),
    ("policies_missing", 2, ("explain", "--path", "/", "--rollouts", "good.yaml", "--policies", "nowhere")),
    ("envoy_dir_unwritable", 3, ("envoy", "render", "--rollouts", "good.yaml", "--out", "noise/x")),
    # Stores.
    ("store_unreachable", 3, ("rollout", "list")),
    ("store_unreachable", 3, ("get", "rollout", "fraud-detector", "--store", "sqlite:nowhere/x.db")),
    ("store_unreachable", 3, ("apply", "-f", "good.yaml", "--store", "sqlite:folder")),
    ("store_corrupt", 3, ("apply", "-f", "good.yaml", "--store", "sqlite:noise")),
    ("store_unreachable", 3, ("kill", "x", "--store", f"sqlite:{BAD_NAME}")),
    ("usage", 2, ("rollout", "list", "--control", f"unix:{BAD_NAME}")),
    ("store_url", 2, ("rollout", "list", "--store", "oracle://x")),
    ("store_url", 2, ("rollout", "list", "--store", "")),
    ("features_missing", 3, ("features", "get", "--view", "v", "--entity", "e")),
    ("features_unnamed", 2, ("features", "get", "--view", "v", "--entity", "e", "--features", "redis://h")),
    # Names, numbers and flags.
    ("name_invalid", 2, ("rollout", "get", "a/b/c")),
    ("name_invalid", 2, ("rollout", "get", "")),
    ("unsupported_kind", 2, ("get", "pod", "x")),
    ("weight_invalid", 2, ("rollout", "set-weight", "x", "nan")),
    ("weight_invalid", 2, ("rollout", "set-weight", "x", "1e400")),
    ("weight_invalid", 2, ("rollout", "set-weight", "x", "--", "-1")),
    ("header_invalid", 2, ("explain", "--path", "/", "--rollouts", "good.yaml", "-H", "no colon")),
    ("feature_invalid", 2, ("explain", "--path", "/", "--rollouts", "good.yaml", "--feature", "no equals sign")),
    ("usage", 2, ("frobnicate",)),
    ("usage", 2, ("--frobnicate",)),
    ("usage", 2, ("rollout", "frobnicate")),
    ("usage", 2, ("validate",)),
    ("usage", 2, ("assign",)),
    ("usage", 2, ("schema", "pod")),
    ("usage", 2, ("rollout", "history", "x", "--limit", "0")),
    ("usage", 2, ("demo", "--envoy-port", "0")),
]

SERVE_REFUSED: Sequence[tuple[str, tuple[str, ...]]] = [
    ("sink_missing", ("--decision-log-full", "stable")),
    ("usage", ("--workers", "0")),
    ("usage", ("--worker-memory", "2T")),
    ("usage", ("--worker-memory", "255M")),
    ("usage", ("--worker-memory", "-1")),
    ("usage", ("--drain-timeout", "nan")),
    ("usage", ("--drain-timeout", "inf")),
    ("usage", ("--transport", "carrier-pigeon")),
    ("usage", ("--rollouts", "nowhere")),
    ("bundle_invalid", ("--policies", "good.yaml")),
    ("address_invalid", ("--listen", "nonsense")),
    ("address_invalid", ("--listen", "127.0.0.1:99999")),
    ("address_invalid", ("--listen", "unix:")),
    ("listen_needs_worker", ("--workers", "2", "--listen", "unix:run/w.sock")),
    ("socket_path_too_long", ("--listen", f"unix:{'long' * 30}/w-{{worker}}.sock")),
    ("address_invalid", (*NO_SOCKETS, "--admin", "9902")),
    ("not_utf8", ("--listen", f"unix:{BAD_NAME}/w-{{worker}}.sock")),
    ("not_utf8", (*NO_SOCKETS, "--decision-log", BAD_NAME)),
    ("not_utf8", (*NO_SOCKETS, "--sink", f"file:{BAD_NAME}")),
    ("sink_url", (*NO_SOCKETS, "--sink", "kafak:events")),
    ("not_utf8", ("--listen", "127.0.0.1:1", "--workers", "1", "--tls-cert", BAD_NAME, "--tls-key", "good.yaml")),
    ("socket_folder_unusable", ("--listen", "unix:good.yaml/w-{worker}.sock")),
    ("policies_shadow_incomplete", (*NO_SOCKETS, "--policies-shadow", "policies")),
    ("policies_shadow_incomplete", (*NO_SOCKETS, "--policies-shadow-share", "10")),
    ("policies_shadow_share", (*NO_SOCKETS, "--policies-shadow", "policies", "--policies-shadow-share", "0")),
    ("policies_shadow_share", (*NO_SOCKETS, "--policies-shadow", "policies", "--policies-shadow-share", "100.01")),
    ("policies_shadow_share", (*NO_SOCKETS, "--policies-shadow", "policies", "--policies-shadow-share", "10%")),
    ("policies_missing", (*NO_SOCKETS, "--policies-shadow", "nowhere", "--policies-shadow-share", "10")),
    ("policies_missing", (*NO_SOCKETS, "--policies-shadow", "good.yaml", "--policies-shadow-share", "10")),
    ("not_utf8", (*NO_SOCKETS, "--policies-shadow", BAD_NAME, "--policies-shadow-share", "10")),
    ("state_needed", ("--store", "sqlite:/")),
    ("store_url", ("--store", "oracle://x")),
    ("usage", ("--state", "good.yaml")),
    ("not_utf8", ("--state", BAD_NAME)),
]


class Answer(NamedTuple):
    """How a command ended."""

    exit_code: int
    out: str
    err: str

    def codes(self) -> list[str]:
        """The codes of the one JSON document that was printed."""
        (line,) = self.out.splitlines()
        return [fault["code"] for fault in json.loads(line)["errors"]]


Run = Callable[..., Answer]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in: a document, an empty folder, a file of noise, policies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DROPOUT_STORE", raising=False)
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(document(CANARY)))
    (tmp_path / "folder").mkdir()
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 16)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "decision.rego").write_text('package routing\ndecision := {"allow": true}\n')
    return tmp_path


@pytest.fixture
def run(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Runs a command as its process would."""

    def dropout(*arguments: str) -> Answer:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capfdbinary.readouterr()
        assert isinstance(ended.value.code, int)
        return Answer(ended.value.code, out.decode(), err.decode())

    return dropout


@contextmanager
def assigning() -> Iterator[subprocess.Popen[bytes]]:
    """A command that has answered once and waits for more on its standard input."""
    command = [*DROPOUT, "assign", "--seed", "s"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, preexec_fn=_hear_ctrl_c) as dropout:
        assert dropout.stdin is not None
        assert dropout.stdout is not None
        try:
            dropout.stdin.write(b"unit\n")
            assert dropout.stdout.readline().startswith(b"unit\t")
            yield dropout
        finally:
            dropout.kill()
            for stream in (dropout.stdin, dropout.stdout):
                with suppress(BrokenPipeError):
                    stream.close()


def _hear_ctrl_c() -> None:
    """What a shell starts in the background ignores SIGINT, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def said(dropout: subprocess.Popen[bytes]) -> bytes:
    """Everything that it wrote to standard error."""
    assert dropout.stderr is not None
    return dropout.stderr.read()


@pytest.mark.parametrize(("code", "exit_code", "arguments"), REFUSED, ids=lambda value: ascii(value)[:60])
def test_a_refusal_is_one_json_document_or_a_sentence(
    run: Run, code: str, exit_code: int, arguments: tuple[str, ...]
) -> None:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    in_json = run(*arguments[:end], "-o", "json", *arguments[end:])
    assert (in_json.exit_code, in_json.codes()[0], in_json.err) == (exit_code, code, "")
    in_text = run(*arguments)
    assert (in_text.exit_code, in_text.out) == (exit_code, "")
    assert in_text.err.rstrip().endswith(f"({code})")


@pytest.mark.parametrize(("code", "arguments"), SERVE_REFUSED, ids=lambda value: str(value)[:60])
def test_serve_refuses_what_it_cannot_do_in_a_sentence(run: Run, code: str, arguments: tuple[str, ...]) -> None:
    listen = () if "--listen" in arguments else NO_SOCKETS
    answer = run("serve", "--store", "sqlite:x.db", "--workers", "1", *listen, *arguments)
    assert (answer.exit_code, answer.out) == (2, "")
    assert answer.err.rstrip().endswith(f"({code})")


def test_serve_says_that_there_is_no_log_before_it_takes_anything(run: Run) -> None:
    for flags in (("--sink", "file:log", "--sink", "file:nowhere/log"), ("--decision-log", "nowhere/log")):
        answer = run("serve", "--store", "sqlite:x.db", "--workers", "1", *NO_SOCKETS, *flags)
        assert (answer.exit_code, answer.out) == (3, "")
        assert answer.err.rstrip().endswith("(decision_log_unwritable)")


def test_serve_refuses_a_working_directory_whose_name_it_cannot_tell_its_workers(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / BAD_NAME).mkdir()
    monkeypatch.chdir(folder / BAD_NAME)
    answer = run("serve", "--store", "sqlite:x.db", "--workers", "1", *NO_SOCKETS)
    assert (answer.exit_code, answer.out) == (2, "")
    assert answer.err.rstrip().endswith("(not_utf8)")


@pytest.mark.parametrize("command", [(), *((name,) for name in ("rollout", "policy", "features", "envoy"))])
def test_without_arguments_the_help_is_shown(run: Run, command: tuple[str, ...]) -> None:
    answer = run(*command)
    assert answer.exit_code == 2
    assert answer.out.startswith("Usage: dropout")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Run, command: str) -> None:
    answer = run(command, "--help")
    assert (answer.exit_code, answer.err) == (0, "")


def test_what_a_terminal_cannot_show_is_printed_as_an_escape(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="latin-1", write_through=True))
    answer = run("assign", "--seed", "s", "--unit", "\u4e00")
    assert (answer.exit_code, answer.err) == (0, "")
    assert b"\\u4e00" in shown.getvalue()


def test_a_request_of_bytes_that_are_not_utf8_is_explained(run: Run) -> None:
    odd = os.fsdecode(b"\xff")
    arguments = ("--rollouts", "good.yaml", "--method", odd, "--path", f"/v1/models/fraud-detector:{odd}")
    answer = run("explain", *arguments, "-H", f"x-user-id: {odd}", "-o", "json")
    assert (answer.exit_code, answer.err, json.loads(answer.out)["unit"]) == (0, "", "\\xff")


def test_a_unit_of_any_bytes_has_a_bucket(folder: Path) -> None:
    units = bytes(range(256)).replace(b"\n", b"")
    done = subprocess.run(
        [*DROPOUT, "assign", "--seed", "a:b", "-o", "json"], input=units + b"\n\n", capture_output=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert [0 <= json.loads(line)["bucket"] < 10_000 for line in done.stdout.splitlines()] == [True, True]


def test_a_carriage_return_is_part_of_a_unit_which_is_said_once_or_taken_off_with_the_newline(folder: Path) -> None:
    def assigned(units: bytes, *options: str) -> tuple[list[bytes], list[bytes]]:
        command = [*DROPOUT, "assign", "--seed", "s", *options]
        done = subprocess.run(command, input=units, capture_output=True, timeout=30, check=True)
        return [line.split(b"\t")[1] for line in done.stdout.rstrip().split(b"\n")], done.stderr.splitlines()

    plain, windows = b"alice\nbob\n", b"alice\r\nbob\r\n"
    buckets, told = assigned(plain)
    assert (len(buckets), told) == (2, [])
    hashed, told = assigned(windows)
    assert set(hashed).isdisjoint(buckets)
    assert told == [b"lines end in CR LF, and the CR is hashed as part of each unit; --crlf takes it off"]
    assert assigned(windows, "--crlf") == (buckets, [])
    assert assigned(plain, "--crlf") == (buckets, [])


def test_a_reader_that_leaves_ends_a_command_without_a_word(folder: Path) -> None:
    with assigning() as dropout:
        assert dropout.stdin is not None
        assert dropout.stdout is not None
        dropout.stdout.close()
        with suppress(BrokenPipeError):
            dropout.stdin.write(b"unit\n" * 100_000)
            dropout.stdin.close()
        assert dropout.wait(60) == CLOSED_PIPE_EXIT
        assert said(dropout) == b""


@pytest.mark.parametrize(
    "arguments", ["schema", "nonsense -o json", "get rollout --help", "replay good.yaml --policies . -o json"]
)
@pytest.mark.parametrize("messages_too", [False, True])
def test_no_command_says_a_word_when_nobody_reads(folder: Path, arguments: str, messages_too: bool) -> None:
    """Whatever it catches of its own, such as a log that cannot be read."""
    reader, writer = os.pipe()
    os.close(reader)
    into = writer if messages_too else subprocess.PIPE
    done = subprocess.run([*DROPOUT, *arguments.split()], stdout=writer, stderr=into, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr or b"") == (CLOSED_PIPE_EXIT, b"")


def test_units_of_an_input_that_is_closed_are_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    answer = run("assign", "--seed", "s")
    assert (answer.exit_code, answer.out) == (2, "")
    assert answer.err.rstrip().endswith("(usage)")


def test_ctrl_c_ends_a_command_without_a_word(folder: Path) -> None:
    with assigning() as dropout:
        dropout.send_signal(signal.SIGINT)
        assert dropout.wait(60) == 130
        assert said(dropout).strip() == b""


@pytest.mark.parametrize("form", [(), ("-o", "json")])
def test_a_full_disk_under_the_answer_is_a_sentence(folder: Path, form: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*DROPOUT, "schema", *form], stdout=full, stderr=subprocess.PIPE, timeout=30)
    assert (done.returncode, done.stderr) == (3, b"No space left on device (io_error)\n")
