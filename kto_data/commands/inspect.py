"""`ktodata inspect`: rows of a cache as the model is fed them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kto_data.choices import ColorMode
from kto_data.errors import CacheError, UsageError, require_packages

if TYPE_CHECKING:
    from kto_data.manifest import Manifest
    from kto_data.processor import Processor
    from kto_data.report.cached_rows import ShownRow
    from kto_data.shard import CachedRow

_ROWS_SHOWN = 3
NEEDED_PACKAGES = ("transformers", "datasets", "pyarrow", "jinja2")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(inspect)


def inspect(
    folder: Annotated[str, typer.Argument(metavar="CACHE", help="Folder or URL that `ktodata preprocess` wrote to.")],
    *,
    split: Annotated[str, typer.Option(help="The split to look at.")] = "train",
    row: Annotated[
        list[int] | None,
        typer.Option(min=0, help="A row by its number, counted from 0 as `datasets` does. Repeatable."),
    ] = None,
    label: Annotated[Literal["desirable", "undesirable"] | None, typer.Option(help="Rows of this label alone.")] = None,
    head: Annotated[int | None, typer.Option(min=1, help="The first rows.", show_default=str(_ROWS_SHOWN))] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write them to this HTML file, images shown, and print nothing.")
    ] = None,
    image_root: Annotated[
        str | None, typer.Option(help="Folder or URL that image paths start from.", show_default="that of the cache")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model folder or hub id.", show_default="that of the cache")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the model.")] = False,
    color: Annotated[ColorMode, typer.Option(help="Colours.")] = "auto",
) -> None:
    """Show rows of a cache as text: the prompt, the completion, each special token, and where its images lie.

    The ids are decoded with the tokenizer that made them, and no other one. Content is shown as it is, but for control
    characters.
    """
    require_packages(NEEDED_PACKAGES, extra="preprocess", needed_for="`ktodata inspect`")
    if row and (label is not None or head is not None):
        raise UsageError("--row names rows, and --label and --head choose them", hint="give one or the other")
    from kto_data.commands.output import wants_color
    from kto_data.commands.places import image_folder, refuse_within
    from kto_data.manifest import read_manifest
    from kto_data.opened_cache import place_of
    from kto_data.report.cached_rows import row_lines
    from kto_data.report.text import Paint

    cache = place_of(folder)
    refuse_within(cache, [("--html", html)])
    root = image_folder(image_root)
    manifest = read_manifest(cache)
    if split not in manifest.splits:
        raise UsageError(f"{cache} has no split {split!r}", hint=f"it has {', '.join(manifest.splits)}")
    processor = _processor(cache, manifest, model, trust_remote_code=trust_remote_code)
    chosen = _rows(cache, manifest, split, row) if row else _first_rows(cache, manifest, split, label, head)
    rows = _shown(split, chosen, processor)
    if html is not None:
        _write_page(html, rows, cache, manifest, root)
        return
    paint = Paint(color=wants_color(color, sys.stdout))
    for index, shown in enumerate(rows):
        if index:
            print()
        for line in row_lines(shown, paint):
            print(line)


def _processor(cache: Path | str, manifest: Manifest, model: str | None, *, trust_remote_code: bool) -> Processor:
    """That of the model, refused where its tokenizer is not the one that made the ids."""
    from kto_data.processor import load_processor
    from kto_data.training import cache_mismatches

    if model is None:
        if not manifest.model:
            raise CacheError(f"{cache} does not say where its model is", hint="name it with --model")
        beside = cache / manifest.model if isinstance(cache, Path) else Path(manifest.model)
        model = str(beside.resolve()) if beside.is_dir() else manifest.model
        if model.startswith(".."):
            raise CacheError(f"the model of {cache} is not in {beside} any more", hint="name it with --model")
    processor = load_processor(model, trust_remote_code=trust_remote_code)
    for problem in cache_mismatches(manifest, processor):
        if problem.key in ("images", "tokenizer"):
            raise CacheError(problem.message, hint="name the model that the cache was made for with --model")
    return processor


def _rows(cache: Path | str, manifest: Manifest, split: str, numbers: list[int]) -> Iterator[tuple[int, CachedRow]]:
    from kto_data.opened_cache import shard_file
    from kto_data.shard import read_rows

    total = manifest.splits[split].counts.kept
    for number in numbers:
        if number >= total:
            raise UsageError(f"--row {number}: {split} has {total:,} rows", hint=f"0 to {total - 1}")
        first = 0
        for shard in manifest.splits[split].shards:
            if number < first + shard.rows:
                yield number, next(read_rows(shard_file(cache, shard), number - first))
                break
            first += shard.rows


def _first_rows(
    cache: Path | str, manifest: Manifest, split: str, label: str | None, head: int | None
) -> Iterator[tuple[int, CachedRow]]:
    from kto_data.opened_cache import shard_file
    from kto_data.shard import read_rows

    every = (row for shard in manifest.splits[split].shards for row in read_rows(shard_file(cache, shard)))
    found = ((n, row) for n, row in enumerate(every) if label is None or row.label == (label == "desirable"))
    return islice(found, head or _ROWS_SHOWN)


def _shown(split: str, rows: Iterator[tuple[int, CachedRow]], processor: Processor) -> Iterator[ShownRow]:
    from kto_data.decode import decode
    from kto_data.report.cached_rows import ShownRow

    for number, row in rows:
        yield ShownRow(split=split, number=number, row=row, decoded=decode(processor, row.encoded))


def _write_page(
    html: Path, rows: Iterator[ShownRow], cache: Path | str, manifest: Manifest, image_root: str | None
) -> None:
    from kto_data.manifest import path_in
    from kto_data.opened_cache import recorded_image_root
    from kto_data.packing import IMAGES_NAME
    from kto_data.report.cached_rows import ImagePlaces, rows_page
    from kto_data.writing import write_whole

    root = image_root or str(recorded_image_root(cache, manifest))
    places = ImagePlaces(root, path_in(cache, IMAGES_NAME), manifest.pack_images)
    write_whole(html, rows_page(str(cache), rows, places).encode())
    print(f"ktodata: rows written to {html}", file=sys.stderr)
