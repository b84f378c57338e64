"""What a decision id costs: ``python -m tests.bench.decision_ids`` prints µs for making one and for opening one."""

from __future__ import annotations

from timeit import repeat
from types import SimpleNamespace

from extproc.clock import SystemClock
from extproc.decision_id import DecisionIds, IdKeys, open_id

CALLS = 100_000


def main() -> None:
    """Best of five rounds each."""
    keys = IdKeys.throwaway()
    ids = DecisionIds(SimpleNamespace(current=keys), 3, SystemClock())
    text = ids.seal(ids.nonce(), 0xDEADBEEF, 2, 77)
    made = min(repeat(lambda: ids.seal(ids.nonce(), 0xDEADBEEF, 2, 77), number=CALLS))
    opened = min(repeat(lambda: open_id(keys, text), number=CALLS))
    print(f"made: {made / CALLS * 1e6:.2f} µs   opened: {opened / CALLS * 1e6:.2f} µs")


if __name__ == "__main__":
    main()
