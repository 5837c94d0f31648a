"""The cache as datasets for a trainer, checked against its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from datasets import Dataset, DatasetDict, load_from_disk

from kto_data import storage
from kto_data.choices import PackImages
from kto_data.download import fetch_cache
from kto_data.errors import CacheError, ConfigError, InputError
from kto_data.manifest import FORMAT_VERSION, Manifest, read_manifest
from kto_data.opened_cache import recorded_image_root
from kto_data.packing import IMAGES_NAME
from kto_data.paths import EVAL, TRAIN
from kto_train.columns import CACHE_COLUMNS, COMPLETION_IDS, IMAGE_REFS, IMAGES, LABEL, PROMPT_IDS
from kto_train.groups import Groups, Rows, make_groups

if TYPE_CHECKING:
    from trl import KTOConfig

_BATCH_ROWS = 4096  # rows read at a time when lengths and keys are taken


class Cache(DatasetDict):  # type: ignore[misc]  # datasets has no types
    """The splits of a cache, `train` and perhaps `eval`, with what the manifest says of them.

    The column `images` is called `image_refs` here: TRL takes rows with `images` for raw ones, to be tokenized anew.
    """

    path: Path
    manifest: Manifest
    image_root: Path | str  # folder or URL where the paths in `image_refs` start, or the folder of the packed images
    pack_images: PackImages  # how images are named there


def load_cache(path: str | Path, image_root: str | Path | None = None) -> Cache:
    """The cache at `path`; nothing of it is read into memory. One at a URL is copied to this machine first.

    `image_root` replaces the folder that the manifest records, for a cache that has moved; of a cache with packed
    images it names the originals, to be read in their place.
    Raises `CacheError` where the folder is no whole cache or its files do not agree with its manifest, and
    `InputError` where rows have images and the image root is no folder, or a URL cannot be read.
    """
    home = str(path)
    path = fetch_cache(home) if storage.is_url(home) else Path(path)
    manifest = read_manifest(path)
    if manifest.format_version != FORMAT_VERSION:
        raise CacheError(
            f"{path} has format version {manifest.format_version}, and this ktodata reads {FORMAT_VERSION}",
            hint="run `ktodata preprocess` again",
        )
    cache = Cache(_load_splits(path))
    cache.path, cache.manifest = path, manifest
    cache.pack_images = manifest.pack_images if image_root is None else "none"
    if image_root is not None:
        cache.image_root = str(image_root) if storage.is_url(str(image_root)) else Path(image_root)
    elif cache.pack_images != "none":
        cache.image_root = path.resolve() / IMAGES_NAME
    else:
        cache.image_root = recorded_image_root(home if storage.is_url(home) else path, manifest)
    _check_splits(cache)
    has_images = any(split.num_images for split in manifest.splits.values())
    if has_images and isinstance(cache.image_root, Path) and not cache.image_root.is_dir():
        if cache.pack_images != "none":
            raise CacheError(
                f"{path} has lost the images that were packed in it: there is no {cache.image_root}",
                hint="run `ktodata preprocess` again, or give the place of the originals: --image-root DIR",
            )
        raise InputError(
            f"the image root {cache.image_root} is not a folder", hint="give the place of the images: --image-root DIR"
        )
    return cache


def read_rows(dataset: Dataset) -> Rows:
    """What grouping needs of each row of a split."""
    labels: list[np.ndarray] = []
    lengths: dict[str, list[np.ndarray]] = {PROMPT_IDS: [], COMPLETION_IDS: []}
    keys: list[int] = []
    columns = dataset.select_columns([PROMPT_IDS, COMPLETION_IDS, LABEL]).with_format("arrow")
    for table in columns.iter(_BATCH_ROWS):
        labels.append(table[LABEL].to_numpy())
        for name, found in lengths.items():
            found.append(table[name].combine_chunks().value_lengths().to_numpy(zero_copy_only=False))
        for ids in table[COMPLETION_IDS]:
            keys.append(xxhash.xxh3_64_intdigest(ids.values.to_numpy().tobytes()) >> 1)
    return Rows(
        label=np.concatenate(labels).astype(np.bool_),
        prompt_length=np.concatenate(lengths[PROMPT_IDS]).astype(np.int64),
        completion_length=np.concatenate(lengths[COMPLETION_IDS]).astype(np.int64),
        completion_key=np.array(keys, dtype=np.int64),
    )


def eval_split(cache: Cache, args: KTOConfig) -> Dataset | None:
    """What is evaluated; None where nothing is to be. Raises `ConfigError` where that is asked for and cannot be."""
    if args.eval_strategy == "no":
        if args.eval_on_start:
            raise ConfigError(
                "eval_on_start asks for evaluation, and without eval_strategy nothing is evaluated",
                hint="eval_strategy='steps', or 'epoch'",
            )
        return None
    if EVAL not in cache:
        raise ConfigError(
            f"eval_strategy asks for evaluation, and {cache.path} has no eval split",
            hint="leave eval_strategy out, or provide an eval split",
        )
    split: Dataset = cache[EVAL]
    return split


def eval_groups_of(cache: Cache, args: KTOConfig, *, by_length: bool = True) -> Groups | None:
    """The groups of what `eval_split` gives; None where that is nothing."""
    split = eval_split(cache, args)
    return None if split is None else make_eval_groups(split, args, cache.manifest.max_length, by_length=by_length)


def make_eval_groups(dataset: Dataset, args: KTOConfig, max_length: int | None, *, by_length: bool = True) -> Groups:
    """The groups of rows that are evaluated. Raises `ConfigError` where there are too few rows for any."""
    try:
        return make_groups(read_rows(dataset), args, max_length, batch_size=args.eval_batch_size, by_length=by_length)
    except ConfigError as error:
        raise ConfigError(f"the eval split: {error.what}", hint=error.hint) from None


def _load_splits(path: Path) -> dict[str, Dataset]:
    try:
        loaded = load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise CacheError(f"{path} cannot be opened: {error}", hint="run `ktodata preprocess` again") from None
    if not isinstance(loaded, DatasetDict):
        raise CacheError(f"{path} holds no splits", hint="run `ktodata preprocess` again")
    return dict(loaded)


def _check_splits(cache: Cache) -> None:
    for name, split in cache.manifest.splits.items():
        if name not in cache:
            raise CacheError(f"{cache.path} has no split {name!r}, which its manifest names")
        dataset = cache[name]
        if len(dataset) != split.counts.kept:
            raise CacheError(
                f"{cache.path}: the split {name!r} has {len(dataset):,} rows, its manifest says {split.counts.kept:,}",
                hint="the cache was changed: run `ktodata preprocess` again",
            )
        missing = [column for column in CACHE_COLUMNS if column not in dataset.column_names]
        if missing:
            raise CacheError(f"{cache.path}: the split {name!r} has no column {missing[0]!r}")
        cache[name] = dataset.rename_column(IMAGES, IMAGE_REFS)
    if TRAIN not in cache:
        raise CacheError(f"{cache.path} has no split {TRAIN!r}", hint="run `ktodata preprocess` again")
