"""The README's examples, run as they stand: in order, in one shell, with the ``dropout`` of this environment."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.envoy import free_port
from tests.support.paths import ROOT
from tests.support.readme import README, Block, blocks

MARK = "<<<end of block {}>>>"
CURL = """#!{python}
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[-1]).read().decode(), end="")
except OSError:
    sys.exit(7)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder as the project's looks to the examples; short, because it holds Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="dr-") as name:
        place = Path(name)
        (place / "policies").symlink_to(ROOT / "policies")
        (place / ".venv").mkdir()
        (place / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        tools = place / ".tools"
        tools.mkdir()
        if shutil.which("curl") is None:
            (tools / "curl").write_text(CURL.format(python=sys.executable))
            (tools / "curl").chmod(0o755)
        yield place


def script_of(examples: list[Block]) -> str:
    """The blocks as one script that stops at the first failure and marks the end of each block's output."""
    port = free_port()
    parts = ["set -euo pipefail", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT"]
    for number, block in enumerate(examples):
        text = block.text
        if block.language == "console":
            text = "\n".join(line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))
        # The examples name the usual port, and something may listen there.
        parts.append(
            text.replace("127.0.0.1:9902", f"127.0.0.1:{port}").replace("serve ", f"serve --admin 127.0.0.1:{port} ")
        )
        parts.append(f"echo; echo '{MARK.format(number)}'")
    return "\n".join(parts)


def expected(block: Block) -> re.Pattern[str]:
    """What a console block says is printed: ``...`` stands for anything within a line."""
    lines = [line.rstrip() for line in block.text.splitlines() if not line.startswith("$ ")]
    return re.compile("\n".join(re.escape(line).replace(r"\.\.\.", r"[^\n]*") for line in lines))


def run(folder: Path, script: str) -> tuple[int, str]:
    """Exit status and output of a script; whatever it started is ended with it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DROPOUT_")}
    environment["PATH"] = f"{environment['PATH']}:{folder / '.tools'}"
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    return process.returncode, output


@pytest.mark.e2e
def test_the_examples_work_as_they_are_written(folder: Path) -> None:
    examples = [block for block in blocks(README.read_text(), "sh", "console") if block.run]
    assert len(examples) >= 5
    status, output = run(folder, script_of(examples))
    assert status == 0, output
    for number, block in enumerate(examples):
        printed, _, output = output.partition(f"\n{MARK.format(number)}\n")
        if block.language == "console":
            said = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())
            assert expected(block).fullmatch(said), f"README.md:{block.line} prints\n{said}"


def test_output_that_differs_is_seen() -> None:
    block = Block("console", "$ date\nit is ... today\n", 1, run=True)
    assert expected(block).fullmatch("it is Monday today")
    assert not expected(block).fullmatch("it is Monday")
    assert not expected(block).fullmatch("it is\nMonday today")
