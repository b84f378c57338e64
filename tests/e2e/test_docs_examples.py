"""The examples of the README and of the pages, run as they stand, with the ``dropout`` of this environment."""

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
from tests.support.pages import README, Block, blocks, pages
from tests.support.paths import ROOT

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
        for name in ("policies", "docs"):
            (place / name).symlink_to(ROOT / name)
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
    ports = {usual: free_port() for usual in ("9902", "9903", "9904", "9910")}
    parts = ["set -euo pipefail", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT"]
    for number, block in enumerate(examples):
        text = block.text
        if block.language == "console":
            text = "\n".join(line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))
        # The examples name the usual ports, and something may listen there.
        text = text.replace("serve ", "serve --admin 127.0.0.1:9902 ")
        parts.append(re.sub(rf"127\.0\.0\.1:({'|'.join(ports)})", lambda usual: f"127.0.0.1:{ports[usual[1]]}", text))
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
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    return process.returncode, output


def check(folder: Path, *files: Path) -> None:
    """Run the blocks of all files in one shell, and hold what each printed against what its file says."""
    examples = [(file, block) for file in files for block in blocks(file.read_text(), "sh", "console") if block.run]
    status, output = run(folder, script_of([block for _, block in examples]))
    assert status == 0, output
    for number, (file, block) in enumerate(examples):
        printed, mark, output = output.partition(f"\n{MARK.format(number)}\n")
        assert mark, output
        if block.language == "console":
            said = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())
            assert expected(block).fullmatch(said), f"{file.relative_to(ROOT)}:{block.line} prints\n{said}"


@pytest.mark.e2e
def test_the_examples_of_the_readme_work_as_they_are_written(folder: Path) -> None:
    check(folder, README)


@pytest.mark.e2e
def test_the_examples_of_the_pages_work_as_they_are_written(folder: Path) -> None:
    check(folder, *pages())


@pytest.mark.e2e
def test_the_examples_of_the_guide_for_authors_work_as_they_are_written(folder: Path) -> None:
    check(folder, ROOT / "policies" / "README.md")


def test_output_that_differs_is_seen() -> None:
    block = Block("console", "$ date\nit is ... today\n", 1, run=True)
    assert expected(block).fullmatch("it is Monday today")
    assert not expected(block).fullmatch("it is Monday")
    assert not expected(block).fullmatch("it is\nMonday today")
