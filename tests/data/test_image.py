"""Images: the size that is counted is the size that is fed, and nothing is opened that must not be."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_image

from kto_data.image import (
    BOMB_PIXELS,
    ImageCheck,
    ImageProbe,
    ProbeStatus,
    load_for_training,
    load_upright,
    probe,
    state_of,
)


def status_of(given_path: str, root: Path, check: ImageCheck = ImageCheck.HEADER) -> ProbeStatus:
    return probe(given_path, root.resolve(), check).status


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_the_header_has_the_size_of_the_upright_image(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = make_image(tmp_path / f"a.{suffix}", 60, 20, orientation=orientation)
    header = probe(path.name, tmp_path.resolve(), ImageCheck.HEADER).header
    assert header is not None
    assert (header.width, header.height) == load_upright(path).size
    assert header.orientation == orientation


@pytest.mark.parametrize("side", [20, 400])  # the larger one takes several blocks
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tiff"])  # the last two are opened by Pillow
def test_what_is_in_a_sound_file_is_told_where_it_is_asked_for(tmp_path: Path, suffix: str, side: int) -> None:
    path = make_image(tmp_path / f"a.{suffix}", side, side, noise_seed=1)
    asked, unasked = (
        probe(path.name, tmp_path.resolve(), ImageCheck.HEADER, with_content=asked) for asked in (True, False)
    )
    assert asked.content == (hashlib.sha256(path.read_bytes()).hexdigest(), state_of(path.stat()))
    assert replace(asked, content=None) == unasked
    path.write_text("no image at all")
    assert probe(path.name, tmp_path.resolve(), ImageCheck.HEADER, with_content=True).content is None


def test_an_image_for_training_is_upright_rgb_and_of_the_size_asked_for(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.jpg", 60, 20, orientation=6)
    image = load_for_training(path, (10, 30))
    assert (image.mode, image.size) == ("RGB", (10, 30))


def test_every_kind_of_place_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    make_image(root / "good.png")
    make_image(tmp_path / "outside.png")
    (root / "empty.png").touch()
    (root / "text.png").write_text("no image at all")
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.png")
    (root / "leads out.png").symlink_to(tmp_path / "outside.png")
    (root / "leads in.png").symlink_to(root / "good.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(root)  # the path of a socket must be short
        listener.bind("socket.png")
        statuses = {
            name: status_of(name, root)
            for name in [*sorted(path.name for path in root.iterdir()), "missing.png", "nul\0.png", "x" * 5000]
        }
    assert statuses == {
        "empty.png": ProbeStatus.UNREADABLE,
        "folder.png": ProbeStatus.NOT_REGULAR,
        "good.png": ProbeStatus.OK,
        "leads in.png": ProbeStatus.OK,
        "leads out.png": ProbeStatus.ESCAPES_ROOT,
        "loop.png": ProbeStatus.IO_ERROR,
        "pipe.png": ProbeStatus.NOT_REGULAR,
        "socket.png": ProbeStatus.NOT_REGULAR,
        "text.png": ProbeStatus.UNREADABLE,
        "missing.png": ProbeStatus.NOT_FOUND,
        "nul\0.png": ProbeStatus.NOT_FOUND,
        "x" * 5000: ProbeStatus.NOT_FOUND,
    }


@pytest.mark.parametrize("path", ["../outside.png", "/etc/passwd", "a/../../outside.png"])
def test_nothing_outside_the_root_is_opened(tmp_path: Path, path: str) -> None:
    make_image(tmp_path / "outside.png")
    (tmp_path / "root").mkdir()
    assert status_of(path, tmp_path / "root", ImageCheck.DECODE) is ProbeStatus.ESCAPES_ROOT


@pytest.mark.parametrize("url", ["https://example.org/a.png", "s3://bucket/a.png", "data:image/png;base64,AAAA"])
def test_a_url_is_never_followed(tmp_path: Path, url: str) -> None:
    assert status_of(url, tmp_path) is ProbeStatus.REMOTE


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif"])
def test_a_cut_file_is_truncated_by_its_header_alone(tmp_path: Path, suffix: str) -> None:
    path = make_image(tmp_path / f"a.{suffix}", 300, 200, noise_seed=1)
    path.write_bytes(path.read_bytes()[:-20] + b"\0" * 5000)
    assert status_of(path.name, tmp_path) is ProbeStatus.TRUNCATED


def test_a_file_that_only_decoding_finds_broken_is_truncated(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.png", 300, 200, noise_seed=1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + content[-12:])
    assert status_of(path.name, tmp_path, ImageCheck.HEADER) is ProbeStatus.OK
    assert status_of(path.name, tmp_path, ImageCheck.DECODE) is ProbeStatus.TRUNCATED


def test_a_bomb_is_judged_by_its_header_and_never_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.bmp"
    # A header that claims 20,000 x 20,000 pixels, and no pixel behind it.
    side = 20_000
    header = b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    header += side.to_bytes(4, "little") * 2 + b"\x01\x00\x18\x00" + bytes(24)
    path.write_bytes(header)
    found: ImageProbe = probe(path.name, tmp_path.resolve(), ImageCheck.DECODE)
    assert found.status is ProbeStatus.OK
    assert found.header is not None
    assert found.header.pixels > BOMB_PIXELS


def test_a_gif_is_not_drawn_where_it_or_a_frame_of_it_is_a_bomb(tmp_path: Path) -> None:
    """Pillow draws the first frame of a GIF as it opens it, however far it goes beyond the canvas."""
    small = make_image(tmp_path / "a.gif", 8, 8).read_bytes()
    frame = small.index(b",\0\0\0\0\x08\0\x08\0")
    huge = b"\xff\xff\xff\xff"
    (tmp_path / "canvas.gif").write_bytes(small[:6] + huge + small[10:])
    seen = probe("canvas.gif", tmp_path.resolve(), ImageCheck.DECODE)
    assert seen.header is not None
    assert (seen.header.width, seen.header.height) == (65_535, 65_535)
    disposal = b"!\xf9\x04\x08\0\0\0\0"
    (tmp_path / "frame.gif").write_bytes(
        small[:frame] + disposal + small[frame : frame + 5] + huge + small[frame + 9 :]
    )
    seen = probe("frame.gif", tmp_path.resolve(), ImageCheck.DECODE)
    assert (seen.status, seen.detail) == (ProbeStatus.UNREADABLE, "a frame of it has more than 89,478,485 pixels")
