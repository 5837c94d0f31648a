"""Parquet files to records as JSON. The home of polars."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson

from kto_data.errors import InputError

if TYPE_CHECKING:
    import polars


def count_rows(path: str) -> int:
    """The number of rows of the file at `path`.

    Raises `InputError` where it is no parquet file, or has a column that JSON cannot say.
    """
    import polars

    try:
        frame = polars.scan_parquet(path, glob=False)
        schema = frame.collect_schema()
        num_rows: int = frame.select(polars.len()).collect().item()
    except (polars.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from None
    for name, dtype in schema.items():
        odd = _not_json(dtype)
        if odd is not None:
            raise InputError(
                f"{path}: column '{name}' holds {odd} values, which a record cannot hold",
                hint="images are named by path: write the bytes to files and keep their paths in `images`"
                if odd == "Binary"
                else "write the column as text or as plain numbers",
            )
    return num_rows


def read_rows(path: str, start: int, num_rows: int) -> list[bytes]:
    """Rows `start` (0-based) to `start + num_rows`, each as one JSON object.

    A null of a column or of a field of a struct is left out: a parquet file has no other way to say that a record
    lacks it. Raises `InputError` where the file cannot be read.
    """
    import polars

    try:
        frame = polars.scan_parquet(path, glob=False).slice(start, num_rows).collect()
    except (polars.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from None
    write = _write_with_floats if any(map(_has_floats, frame.dtypes)) else orjson.dumps
    return [write(_without_nulls(row)) for row in frame.iter_rows(named=True)]


def _unreadable(path: str, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(
        f"{path} cannot be read as parquet: {reason}", hint="check that it was copied whole, and write it again if not"
    )


def _children(dtype: polars.DataType) -> list[Any]:
    import polars

    if isinstance(dtype, polars.Struct):
        return [field.dtype for field in dtype.fields]
    if isinstance(dtype, polars.List | polars.Array):
        return [dtype.inner]
    return []


def _not_json(dtype: Any) -> str | None:
    """The name of the first type within `dtype` that JSON cannot say."""
    import polars

    children = _children(dtype)
    if children:
        return next(filter(None, map(_not_json, children)), None)
    plain = (polars.String, polars.Boolean, polars.Null, polars.Categorical, polars.Enum, polars.Date, polars.Datetime)
    numbers = (
        polars.Int8,
        polars.Int16,
        polars.Int32,
        polars.Int64,
        polars.UInt8,
        polars.UInt16,
        polars.UInt32,
        polars.UInt64,
        polars.Float32,
        polars.Float64,
    )
    if dtype.base_type() in (*plain, *numbers, polars.Struct):
        return None
    return str(dtype.base_type().__name__)


def _has_floats(dtype: Any) -> bool:
    return bool(dtype.is_float()) or any(map(_has_floats, _children(dtype)))


def _write_with_floats(row: Any) -> bytes:
    # orjson would write NaN as null; as NaN it is found and reported.
    return json.dumps(row, ensure_ascii=False, default=lambda value: value.isoformat()).encode()


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
