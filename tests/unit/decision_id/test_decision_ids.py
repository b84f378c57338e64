"""Decision ids: what was put in comes out, for us alone; nothing else opens."""

from __future__ import annotations

import stat
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.decision_id import DecisionIds, IdFault, IdKeys, KeyFile, Opened, open_id
from extproc.errors import InvalidInput, Unreachable
from tests.support.clock import FakeClock
from tests.support.paths import vectors

VECTORS = vectors("decision-id-v1")

SECRET = bytes(range(32))
KEYS = IdKeys([SECRET])

numbers = st.integers(0, 2**32 - 1)
octets = st.integers(0, 255)


def ids_of(worker: int = 0, keys: IdKeys = KEYS, clock: FakeClock | None = None) -> DecisionIds:
    return DecisionIds(SimpleNamespace(current=keys), worker, clock or FakeClock())


def opened(text: str, keys: IdKeys = KEYS) -> Opened:
    found = open_id(keys, text)
    assert isinstance(found, Opened), found
    return found


# What is promised


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_an_id_that_was_once_given_out_opens_for_ever(vector: dict[str, Any]) -> None:
    found = opened(vector["id"], IdKeys([bytes.fromhex(vector["key"])]))
    named = {name: getattr(found, name) for name in ("worker", "counter", "number", "arm", "group")}
    assert {**named, "milliseconds": round(found.at * 1000)} == {
        name: vector[name] for name in [*named, "milliseconds"]
    }


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_the_layout_is_as_written_down(vector: dict[str, Any]) -> None:
    """Made here once more, byte by byte, with nothing of the package."""
    secret = bytes.fromhex(vector["key"])

    def keyed(person: bytes, size: int, message: bytes = b"") -> bytes:
        return blake2b(message, key=secret, person=person, digest_size=size).digest()

    head = keyed(b"decision-id name", 1) + vector["milliseconds"].to_bytes(6, "big")
    tail = bytes([vector["worker"]]) + vector["counter"].to_bytes(2, "big")
    clear = vector["number"].to_bytes(4, "big") + bytes([vector["arm"], vector["group"]])
    mask = keyed(b"decision-id mask", 16, head + tail)[:6]
    masked = bytes(a ^ b for a, b in zip(clear, mask, strict=True))
    body = head + masked[:5] + tail + masked[5:]
    assert urlsafe_b64encode(body + keyed(b"decision-id mac", 8, body)).decode() == vector["id"]


# Round trips


@given(number=numbers, arm=octets, group=octets, worker=octets, seconds=st.integers(0, 2**47 // 1000))
def test_what_was_sealed_is_opened(number: int, arm: int, group: int, worker: int, seconds: int) -> None:
    ids = ids_of(worker, clock=FakeClock(seconds + 0.5))
    text = ids.seal(ids.nonce(), number, arm, group)
    assert len(text) == 32
    found = opened(text)
    assert (found.number, found.arm, found.group, found.worker) == (number, arm, group, worker)
    assert found.at == seconds + 0.5


@given(number=numbers, arm=octets, group=octets, bit=st.integers(0, 191))
def test_an_id_with_any_bit_flipped_is_refused(number: int, arm: int, group: int, bit: int) -> None:
    ids = ids_of()
    raw = int.from_bytes(urlsafe_b64decode(ids.seal(ids.nonce(), number, arm, group)), "big") ^ (1 << bit)
    text = urlsafe_b64encode(raw.to_bytes(24, "big")).decode()
    assert open_id(KEYS, text) is (IdFault.UNKNOWN_KEY if bit >= 184 else IdFault.FORGED)


@given(st.text(max_size=40) | st.binary(max_size=30).map(lambda raw: urlsafe_b64encode(raw).decode()))
def test_nothing_else_opens(text: str) -> None:
    assert isinstance(open_id(KEYS, text), IdFault)


@pytest.mark.parametrize(
    "change", [str.swapcase, lambda text: text + "=", lambda text: f" {text}", lambda text: text[:31]]
)
def test_an_id_has_one_spelling(change: Any) -> None:
    ids = ids_of()
    for _ in range(50):
        text = ids.seal(ids.nonce(), 7, 1, 2)
        assert isinstance(open_id(KEYS, change(text)), IdFault)
        standard = text.replace("-", "+").replace("_", "/")
        assert standard == text or open_id(KEYS, standard) is IdFault.MALFORMED


# What an id gives away


@given(number=numbers, arm=octets, group=octets)
def test_what_is_masked_looks_different_each_time(number: int, arm: int, group: int) -> None:
    ids = ids_of()
    raws = [urlsafe_b64decode(ids.seal(ids.nonce(), number, arm, group)) for _ in range(64)]
    assert len({raw[7:11] for raw in raws}) == 64
    # A byte has 256 values: of 64 draws about 57 differ, and fewer than 40 do once in 10^9 times.
    assert len({raw[11] for raw in raws}) > 40
    assert len({raw[15] for raw in raws}) > 40


def test_what_is_masked_says_nothing_about_the_arm() -> None:
    ids = ids_of()
    of_arm = {arm: [urlsafe_b64decode(ids.seal(ids.nonce(), 9, arm, 0))[11] for _ in range(4096)] for arm in (1, 2)}
    for raws in of_arm.values():
        ones = [sum(byte >> bit & 1 for byte in raws) for bit in range(8)]
        assert all(1800 < count < 2300 for count in ones), ones  # 2048 ± 32: five sigmas and more


def test_another_key_neither_opens_nor_repeats_an_id() -> None:
    other = IdKeys([bytes(range(100, 132))])
    ids = ids_of()
    assert open_id(other, ids.seal(ids.nonce(), 1, 1, 1)) is IdFault.UNKNOWN_KEY


def test_the_draw_of_a_request_without_a_unit_cannot_be_read_from_its_id() -> None:
    draws = []
    for keys in (KEYS, IdKeys([b"x" * 32])):
        ids = ids_of(keys=keys)
        ids._count = 0
        draws.append(ids.nonce().random())
    assert draws[0] != draws[1]
    assert all(len(draw) == 20 for draw in draws)


# No two are equal


@pytest.mark.slow
def test_no_two_ids_of_a_worker_are_equal_whatever_the_clock_does() -> None:
    clock = FakeClock()
    ids = ids_of(clock=clock)
    made: list[str] = []
    for step in (0.0, 0.0, 0.001, -3600.0, 3599.999, 0.0005, -1.0):
        clock.advance(step)
        made += [ids.seal(ids.nonce(), 1, 1, 1) for _ in range(40_000)]
    assert len(set(made)) == len(made)
    found = [opened(text) for text in made]
    assert len({one.key for one in found}) == len(found)
    times = [one.at for one in found]
    assert times == sorted(times)


def test_workers_of_one_moment_make_different_ids() -> None:
    made = {ids.seal(ids.nonce(), 1, 1, 1) for ids in map(ids_of, range(256))}
    assert len(made) == 256


def test_lives_of_one_worker_begin_anywhere() -> None:
    begun = set()
    for _ in range(50):
        ids = ids_of()
        begun.add(opened(ids.seal(ids.nonce(), 1, 1, 1)).counter)
    assert len(begun) > 40


# Keys


def test_the_first_key_seals_and_all_open() -> None:
    new, old = bytes(range(50, 82)), SECRET
    before, after = ids_of(), ids_of(keys=IdKeys([new, old]))
    rotated = IdKeys([new, old])
    old_id, new_id = before.seal(before.nonce(), 5, 2, 9), after.seal(after.nonce(), 5, 2, 9)
    assert opened(old_id, rotated).number == opened(new_id, rotated).number == 5
    assert open_id(KEYS, new_id) is IdFault.UNKNOWN_KEY


def test_an_id_that_was_begun_before_a_change_of_keys_is_sealed_with_the_key_it_began_with() -> None:
    current = SimpleNamespace(current=KEYS)
    ids = DecisionIds(current, 0, FakeClock())
    nonce = ids.nonce()
    current.current = IdKeys([b"n" * 32])
    assert opened(ids.seal(nonce, 5, 2, 9)).number == 5


def test_a_key_file_is_made_on_first_use_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "dropout.db.ids"
    made = KeyFile(path, FakeClock())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ids = DecisionIds(made, 0, FakeClock())
    assert isinstance(KeyFile(path, FakeClock()).open(ids.seal(ids.nonce(), 1, 1, 1)), Opened)
    assert [file.name for file in tmp_path.iterdir()] == ["dropout.db.ids"]


def test_a_reader_finds_a_new_key_by_itself_and_looks_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "dropout.db.ids", FakeClock()
    reader = KeyFile(path, clock)
    looks: list[None] = []
    state = reader._state
    monkeypatch.setattr(KeyFile, "_state", lambda self: (looks.append(None), state())[1])
    replacement = tmp_path / "new"
    replacement.write_text("ab" * 32 + "\n" + path.read_text())
    replacement.rename(path)
    new = ids_of(keys=IdKeys([b"\xab" * 32]))
    text = new.seal(new.nonce(), 1, 1, 1)
    forged = "_" * 32
    assert reader.open(text) is IdFault.UNKNOWN_KEY  # it has just looked
    clock.advance(1.0)
    assert isinstance(reader.open(text), Opened)
    looks.clear()
    for _ in range(1000):
        assert reader.open(forged) in (IdFault.UNKNOWN_KEY, IdFault.FORGED)
    assert not looks


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"short\n", b"k" * 32, b"zz" * 32, b"ab" * 32 + b"\n" + b"ab" * 32 + b"\n", b"\xff" * 64],
)
def test_a_file_that_holds_no_keys_is_an_error_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dropout.db.ids"
    path.write_bytes(content)
    with pytest.raises(InvalidInput) as raised:
        KeyFile(path, FakeClock())
    assert raised.value.code == "key_invalid"
    assert path.read_bytes() == content


def test_keys_that_became_unreadable_leave_the_ones_that_are_known(tmp_path: Path) -> None:
    path, clock = tmp_path / "dropout.db.ids", FakeClock()
    reader = KeyFile(path, clock)
    ids = DecisionIds(reader, 0, clock)
    text = ids.seal(ids.nonce(), 1, 1, 1)
    path.write_bytes(b"garbage")
    with pytest.raises(InvalidInput):
        reader.reload()
    clock.advance(2.0)
    assert reader.open("A" * 32) is IdFault.UNKNOWN_KEY or reader.current.get(0) is not None
    assert isinstance(reader.open(text), Opened)


def test_a_key_file_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as raised:
        KeyFile(tmp_path / "missing" / "dropout.db.ids", FakeClock())
    assert raised.value.code == "key_unreachable"
