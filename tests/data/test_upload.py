"""A cache put to a URL, its images a few folders at a time; on object storage: test_s3.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from kto_data import counterpart
from kto_data.counterpart import Comparison
from kto_data.depot import Contents
from kto_data.errors import UsageError
from kto_data.upload import claimed, upload_cache

NUM_FOLDERS = 256


def make_work(folder: Path, num_images: int) -> Path:
    """What is sent of a cache: a manifest, a shard and images, as many in each folder."""
    work = folder / "cache"
    (work / "train").mkdir(parents=True)
    (work / "manifest.json").write_text("{}")
    (work / "train" / "shard-00000.arrow").write_text("rows")
    for number in range(num_images):
        inner = work / "images" / f"{number % NUM_FOLDERS:02x}"
        inner.mkdir(parents=True, exist_ok=True)
        (inner / f"{inner.name}{number:062x}").write_bytes(b"%d" % number)
    return work


def put(work: Path, url: str) -> tuple[int, int]:
    with claimed(url, work):
        done = upload_cache(work, url, Contents())
    return done.num_sent, done.num_there


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("held", [1, 10_000], ids=["a folder at a time", "many at a time"])
def test_a_cache_is_put_once_and_what_is_no_part_of_it_any_more_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(counterpart, "_HELD", held)
    work, there = make_work(tmp_path, 40), tmp_path / "there"
    url = f"file://{there}"
    assert put(work, url) == (42, 0)
    assert files_of(there) == files_of(work)
    assert put(work, url) == (0, 41)
    gone, changed, lost, *_ = sorted(path for path in (work / "images").rglob("*") if path.is_file())
    gone.unlink()
    (there / changed.relative_to(work)).write_bytes(b"longer than it was")
    (there / lost.relative_to(work)).unlink()
    (there / "images" / "notes.txt").write_text("somebody's")
    (work / "manifest.json").write_text('{"rows": 1}')
    assert put(work, url) == (3, 38)
    assert files_of(there) == files_of(work) | {"images/notes.txt"}
    (there / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"holds no cache \(for one, 'images/notes.txt'\)"):
        put(work, url)


def test_of_images_few_are_known_at_a_time_unless_a_folder_has_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counterpart, "_HELD", 6)
    work, there = make_work(tmp_path, 2 * NUM_FOLDERS), tmp_path / "there"
    for _ in range(2):  # with nothing there, then with all
        first, *parts = Comparison(work, f"file://{there}", Contents()).parts()
        assert first.wanted.keys() == {"train/shard-00000.arrow"}
        assert sum(len(part.wanted) for part in parts) == 2 * NUM_FOLDERS
        assert {max(len(part.wanted), len(part.there)) for part in parts[1:-1]} == {6}
        put(work, f"file://{there}")
