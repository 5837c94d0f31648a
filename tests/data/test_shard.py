"""What is in a shard is what was put in, in the columns that pyarrow itself would have made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_data.encode import Encoded, ImageRef
from kto_data.shard import SCHEMA, CachedRow, read_rows, write_shard

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=5)
SIDES = st.integers(1, 2**31 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
IMAGES = st.lists(st.builds(ImageRef, TEXTS, TEXTS, SIDES, SIDES, st.integers(0, 2**14)), max_size=3)
ENCODED = st.builds(Encoded, IDS, IDS, IMAGES.map(tuple), st.just(0))
ROWS = st.lists(
    st.builds(CachedRow, ENCODED, st.booleans(), TEXTS, st.integers(1, 2**62), st.none() | TEXTS), min_size=1
)


def as_columns(row: CachedRow) -> dict[str, object]:
    encoded = row.encoded
    names = ImageRef.__dataclass_fields__
    return {
        "prompt_ids": encoded.prompt_ids,
        "completion_ids": encoded.completion_ids,
        "label": row.label,
        "images": [{name: getattr(image, name) for name in names} for image in encoded.images],
        "num_tokens": encoded.num_tokens,
        "num_image_tokens": encoded.num_image_tokens,
        "source": {"file": row.file, "line": row.line},
        "id": row.id,
    }


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_a_shard_holds_the_columns_that_pyarrow_makes_of_the_rows(rows: list[CachedRow]) -> None:
    with TemporaryDirectory() as folder:
        write_shard(Path(folder), "shard.arrow", rows)
        with pa.OSFile(f"{folder}/shard.arrow") as file, pa.ipc.open_stream(file) as reader:
            table = reader.read_all()
        assert list(read_rows(Path(folder, "shard.arrow"))) == rows
    table.validate(full=True)
    assert table.equals(pa.Table.from_pylist([as_columns(row) for row in rows], SCHEMA))


def test_a_shard_is_written_without_pandas(tmp_path: Path) -> None:
    steps = """
import sys
from pathlib import Path
from kto_data.encode import Encoded, ImageRef
from kto_data.shard import CachedRow, write_shard
encoded = Encoded([1, 2], [3], (ImageRef("a.png", "", 1, 1, 1),), 0)
write_shard(Path(sys.argv[1]), "shard.arrow", [CachedRow(encoded, True, "data.jsonl", 1, None)])
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", steps, tmp_path], capture_output=True, text=True, check=True)
    assert "pandas" not in done.stdout.split()
