"""One way to look at a folder, for documents and policies alike; and an edit that is taken once it rests."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.resources.folder_watch import FolderWatch
from extproc.resources.folders import FolderListing, Stamp, list_folder
from extproc.resources.loading import list_documents
from extproc.resources.policies import list_policies

Look = Callable[[Path], FolderListing]

NAMES: Mapping[Look, str] = {list_documents: "a.yaml", list_policies: "a.rego"}
"""Who looks at folders, and a file that it wants."""


def below(listing: FolderListing, root: Path) -> list[str]:
    return [os.path.relpath(path, root) for path in listing.files]


@pytest.fixture(params=NAMES, ids=["documents", "policies"])
def look(request: pytest.FixtureRequest) -> Look:
    found: Look = request.param
    return found


def test_links_are_followed_hidden_and_foreign_files_passed_over(tmp_path: Path, look: Look) -> None:
    name = NAMES[look]
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root, root / ".git", root / "..2026", elsewhere, elsewhere / "sub"):
        folder.mkdir()
        (folder / name).write_text(folder.name)
    (root / "linked").symlink_to(elsewhere)
    (root / f"link-{name}").symlink_to(f"..2026/{name}")
    (root / f".{name}").write_text("")
    (root / "README.md").write_text("")
    (root / "broken.md").symlink_to("nowhere")
    os.mkfifo(root / f"pipe-{name}")
    listing = look(root)
    assert below(listing, root) == [name, f"link-{name}", f"linked/{name}", f"linked/sub/{name}"]
    assert listing.unreadable == {}


def test_links_that_lead_back_end(tmp_path: Path, look: Look) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / NAMES[look]).write_text("")
    (tmp_path / NAMES[look]).write_text("of nobody")
    for place, target in (("a/again", root), ("one", root / "a"), ("up", tmp_path), ("all", Path("/"))):
        (root / place).symlink_to(target)
    assert below(look(root), root) == [f"a/{NAMES[look]}"]


@pytest.mark.parametrize("target", ["nowhere", "itself"])
def test_a_link_that_leads_nowhere_is_named_where_it_may_have_led_to_something(
    tmp_path: Path, look: Look, target: str
) -> None:
    for name in (NAMES[look], "itself", "folder", "notes.txt"):
        (tmp_path / name).symlink_to(name if target == "itself" else target)
    assert [os.path.relpath(place, tmp_path) for place in look(tmp_path).unreadable] == sorted(
        [NAMES[look], "itself", "folder"]
    )


def test_a_file_that_several_paths_lead_to_is_there_once(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("")
    (tmp_path / "a").symlink_to("b")
    listing = list_folder(tmp_path, lambda name: True)
    assert (below(listing, tmp_path), [path for path, _ in listing.once()]) == (["a", "b"], [str(tmp_path / "a")])


def test_a_folder_that_is_not_there_is_no_empty_one(tmp_path: Path, look: Look) -> None:
    assert list(look(tmp_path / "nowhere").unreadable) == [str(tmp_path / "nowhere")]


def taken(watch: FolderWatch) -> bool:
    """Whether there was something to take, which is then taken."""
    found = watch.changed()
    if found is not None:
        watch.take(found)
    return found is not None


def test_an_edit_is_taken_once_it_rests(tmp_path: Path, look: Look) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / NAMES[look]
    watch = FolderWatch(lambda: look(tmp_path))
    watch.take(watch.now())
    assert not taken(watch)
    file.write_text("1")
    assert [taken(watch) for _ in range(3)] == [False, True, False]
    file.write_text("12")
    assert not taken(watch)
    file.write_text("123")
    assert [taken(watch) for _ in range(3)] == [False, True, False]
    file.unlink()
    assert [taken(watch) for _ in range(3)] == [False, True, False]


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)), min_size=2, max_size=20), st.integers(0, 3))
def test_nothing_is_taken_that_was_not_the_same_at_two_looks(
    states: Sequence[Mapping[str, int]], patience: int
) -> None:
    looks = [
        FolderListing({path: Stamp(path, 1, 1, 1, size) for path, size in state.items()}, {}, {}) for state in states
    ]
    coming = iter(looks)
    watch = FolderWatch(lambda: next(coming), patience)
    watch.take(watch.now())
    before = looks[0].files
    for earlier, later in pairwise(looks):
        found = watch.changed()
        after = before if found is None else found.files
        for path in before.keys() | after.keys():
            steady = earlier.files.get(path) == later.files.get(path) == after.get(path)
            assert steady or after.get(path) == before.get(path)
        if found is not None:
            watch.take(found)
        before = after
    for _ in range(2):
        coming = iter([looks[-1]])
        taken(watch)
    assert watch.taken == looks[-1]
