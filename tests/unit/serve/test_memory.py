"""A worker's memory: what is noted, what is limited, and when the rule that a worker ended in is to blame."""

from __future__ import annotations

import signal
import sys

import pytest

from extproc.serve.memory import GROWTH_BYTES, Memory, MemoryGauge, blame
from extproc.serve.supervisor.children import spawn

MB = 1 << 20
STEADY = Memory(resident=70 * MB, data=136 * MB, peak=70 * MB)


@pytest.mark.parametrize(
    ("before", "peak", "limit", "crashed", "deed"),
    [
        pytest.param(STEADY, 70 * MB, 0, False, None, id="killed while a rule merely ran"),
        pytest.param(STEADY, 134 * MB, 0, False, None, id="grown by what any rule may"),
        pytest.param(STEADY, 135 * MB, 0, False, "had grown it by 65 MB", id="killed when it had grown"),
        pytest.param(STEADY, 500 * MB, 600 * MB, True, "had grown it by 430 MB", id="beyond its limit"),
        pytest.param(STEADY, 70 * MB, 600 * MB, True, "crashed it", id="asked for too much at once"),
        pytest.param(STEADY, 70 * MB, 0, True, "crashed it", id="crashed without a limit"),
        pytest.param(STEADY._replace(data=540 * MB), 70 * MB, 600 * MB, True, None, id="at its limit before the rule"),
        pytest.param(STEADY._replace(peak=300 * MB), 300 * MB, 0, False, None, id="large long ago"),
        pytest.param(
            STEADY._replace(peak=300 * MB), 301 * MB, 0, False, "had grown it by 231 MB", id="larger than ever"
        ),
        pytest.param(STEADY, 0, 0, False, None, id="nobody knows how large it was"),
        pytest.param(Memory(), 500 * MB, 0, False, None, id="nobody knows how large it was before"),
    ],
)
def test_a_rule_is_to_blame_for_what_it_did_and_not_because_it_ran(
    before: Memory, peak: int, limit: int, crashed: bool, deed: str | None
) -> None:
    assert blame(before, peak, limit, crashed=crashed) == deed


def test_what_a_process_held_at_most_is_known_when_it_was_killed_and_counts_as_it_had_counted() -> None:
    child = spawn(0, [sys.executable, "-c", GROWS])
    try:
        noted = Memory(*map(int, child.pipe.recv(100).split()))
        assert 0 < noted.resident <= noted.peak
        assert child.pipe.recv(1) == b"x"
        child.process.send_signal(signal.SIGKILL)
        child.reap()
        assert child.process.returncode == -signal.SIGKILL
        assert noted.peak + GROWTH_BYTES < child.peak < noted.peak + 3 * GROWTH_BYTES
    finally:
        child.kill()
        child.pipe.close()
        child.page.close()


def test_what_is_noted_follows_what_is_held() -> None:
    gauge = MemoryGauge()
    before = gauge.read()
    held = bytearray(GROWTH_BYTES)
    after = gauge.read()
    assert after.data - before.data >= len(held) // 2
    assert after.peak >= before.peak


GROWS = f"""
import os, sys, time
from extproc.serve.memory import MemoryGauge
noted = MemoryGauge().read()
os.write(int(sys.argv[1]), " ".join(map(str, noted)).encode())
held = b"x" * (noted.peak - noted.resident + {2 * GROWTH_BYTES})
os.write(int(sys.argv[1]), b"x")
time.sleep(600)
"""
