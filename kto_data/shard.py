"""Samples to Arrow files, and the files that make a folder of them a dataset: the only home of pyarrow.

A shard holds the kept rows of one chunk of one input file, in source order. It is written to a temporary name, synced
and renamed, so that a file with a shard's name is whole.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kto_data.encode import Encoded, ImageRef
from kto_data.errors import CacheError
from kto_data.manifest import Shard
from kto_data.writing import write_whole

_ROWS_PER_BATCH = 1000  # rows of one Arrow record batch; what `datasets` seeks by

_IMAGE = pa.struct(
    [
        pa.field("path", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("num_tokens", pa.int32()),
    ]
)

SCHEMA = pa.schema(
    [
        pa.field("prompt_ids", pa.list_(pa.int32())),
        pa.field("completion_ids", pa.list_(pa.int32())),
        pa.field("label", pa.bool_()),
        pa.field("images", pa.list_(_IMAGE)),
        pa.field("num_tokens", pa.int32()),
        pa.field("num_image_tokens", pa.int32()),
        pa.field("source", pa.struct([pa.field("file", pa.string()), pa.field("line", pa.int64())])),
        pa.field("id", pa.string()),
    ]
)
"""The columns of a cache, the same whether the first rows have images or not."""


@dataclass(frozen=True, slots=True)
class CachedRow:
    """One row of a cache."""

    encoded: Encoded
    label: bool
    file: str  # the input file, as the user named it
    line: int  # the physical line there, 1-based
    id: str | None  # the record's own


def _batch(rows: Sequence[CachedRow]) -> pa.RecordBatch:
    """Rows in the spelling of `SCHEMA`.

    The columns are made of whole buffers: one value after the other they would take as long as all else of a shard,
    and `pyarrow.array` imports pandas, which takes as long as to build thousands of rows.
    """
    images = [image for row in rows for image in row.encoded.images]
    columns = [
        _lists([row.encoded.prompt_ids for row in rows]),
        _lists([row.encoded.completion_ids for row in rows]),
        _bools([row.label for row in rows]),
        pa.ListArray.from_arrays(_ends([len(row.encoded.images) for row in rows]), _images(images)),
        _ints([row.encoded.num_tokens for row in rows]),
        _ints([row.encoded.num_image_tokens for row in rows]),
        pa.StructArray.from_arrays(
            [_texts([row.file for row in rows]), _ints([row.line for row in rows], np.int64)],
            fields=list(SCHEMA.field("source").type),
        ),
        _texts([row.id for row in rows]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _images(images: Sequence[ImageRef]) -> pa.StructArray:
    columns = [
        _texts([image.path for image in images]),
        _texts([image.sha256 for image in images]),
        _ints([image.width for image in images]),
        _ints([image.height for image in images]),
        _ints([image.num_tokens for image in images]),
    ]
    return pa.StructArray.from_arrays(columns, fields=list(_IMAGE))


def _lists(ids: Sequence[list[int]]) -> pa.ListArray:
    values = itertools.chain.from_iterable(ids)
    return pa.ListArray.from_arrays(_ends([len(one) for one in ids]), _ints(values))


def _ends(lengths: Sequence[int]) -> pa.Int32Array:
    """Where each value of a column ends in the buffer of them all, after a 0."""
    return _ints(itertools.accumulate(lengths, initial=0))


def _ints(values: Iterable[int], type: type[np.signedinteger[Any]] = np.int32) -> pa.Array:
    numbers = np.fromiter(values, type)
    return pa.Array.from_buffers(pa.from_numpy_dtype(type), len(numbers), [None, pa.py_buffer(numbers)])


def _bools(values: Sequence[bool]) -> pa.BooleanArray:
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)])


def _texts(values: Sequence[str | None]) -> pa.StringArray:
    pieces = [b"" if value is None else value.encode() for value in values]
    are_there = None if None not in values else _bits([value is not None for value in values])
    ends = _ends([len(piece) for piece in pieces])
    buffers = [are_there, ends.buffers()[1], pa.py_buffer(b"".join(pieces))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _bits(values: Sequence[bool]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.array(values, np.bool_), bitorder="little"))


class ShardWriter:
    """Takes the rows of a shard as they come. Of all but the last thousand it holds what will be in the file alone: ids
    as Python has them take ten times as much."""

    def __init__(self) -> None:
        self._sink = pa.BufferOutputStream()
        self._writer = pa.ipc.new_stream(self._sink, SCHEMA)
        self._rows: list[CachedRow] = []
        self.num_rows = 0

    def add(self, row: CachedRow) -> None:
        """Take in the next row."""
        self._rows.append(row)
        self.num_rows += 1
        if len(self._rows) == _ROWS_PER_BATCH:
            self._flush()

    def write(self, folder: Path, name: str) -> Shard:
        """Write all rows to `folder/name`, whole or not at all; the path in the answer is `name`. No row comes after.

        Raises `InputError` when the disk is full or the folder cannot be written to.
        """
        if self._rows:
            self._flush()
        self._writer.close()
        content = self._sink.getvalue().to_pybytes()
        write_whole(folder / name, content)
        return Shard(path=name, rows=self.num_rows, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    def _flush(self) -> None:
        self._writer.write_batch(_batch(self._rows))
        self._rows = []


def write_shard(folder: Path, name: str, rows: Iterable[CachedRow]) -> Shard:
    """Write `rows` as a `ShardWriter` does."""
    writer = ShardWriter()
    for row in rows:
        writer.add(row)
    return writer.write(folder, name)


def read_rows(path: Path, start: int = 0) -> Iterator[CachedRow]:
    """The rows of a shard from the one at `start` on. Raises `CacheError` where the file is missing or spoilt."""
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                if start < batch.num_rows:
                    yield from map(_to_row, batch.slice(start).to_pylist())
                start = max(0, start - batch.num_rows)
    except (OSError, pa.ArrowInvalid) as error:
        raise CacheError(f"cannot read {path}: {error}", hint="run `ktodata preprocess` again") from None


def _to_row(columns: dict[str, Any]) -> CachedRow:
    images = tuple(ImageRef(**image) for image in columns["images"])
    encoded = Encoded(columns["prompt_ids"], columns["completion_ids"], images, num_cut=0)
    source = columns["source"]
    return CachedRow(encoded, columns["label"], source["file"], source["line"], columns["id"])


def read_images(path: Path) -> list[ImageRef]:
    """The distinct images of a shard's rows, in order."""
    found: dict[ImageRef, None] = {}
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            found.update((ImageRef(**image), None) for image in batch.column("images").flatten().to_pylist())
    return list(found)


def write_dataset_files(folder: Path, splits: Mapping[str, Sequence[str]], fingerprint: str) -> None:
    """Write what lets `datasets.load_from_disk(folder)` open the shards as a `DatasetDict`.

    `splits` names the shard files of each split, relative to the split's folder.
    """
    features = {column.name: _feature(column.type) for column in SCHEMA}
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    for split, names in splits.items():
        state: dict[str, Any] = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": f"{fingerprint[:16]}-{split}",
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
        write_whole(folder / split / "dataset_info.json", _json(info))
        write_whole(folder / split / "state.json", _json(state))
    write_whole(folder / "dataset_dict.json", _json({"splits": list(splits)}))


def _feature(type: pa.DataType) -> dict[str, Any]:
    """A type of `SCHEMA` in the spelling of `datasets`, which takes longer to import than a small cache to make."""
    if pa.types.is_list(type):
        return {"feature": _feature(type.value_type), "_type": "List"}
    if pa.types.is_struct(type):
        return {field.name: _feature(field.type) for field in type}
    return {"dtype": str(type), "_type": "Value"}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
