"""Label balance reports for tests: small ones of given records, and one as large and as hostile as data can make it."""

from __future__ import annotations

from typing import Any

import orjson
from conftest import make_record

from kto_data.encode import Encoded, ImageRef
from kto_data.record import Record
from kto_data.report.balance.model import BalanceReport
from kto_data.report.balance.numbers import balance_report
from kto_data.tally import Tally, TallyBuilder


def record(prompt: str, answer: str, label: bool, **overrides: Any) -> Record:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return Record.model_validate_json(orjson.dumps(make_record(messages=messages, label=label, **overrides)))


def tally_of(*records: Record, images: tuple[ImageRef, ...] = ()) -> Tally:
    """Of records that are kept; all of them with `images`."""
    builder = TallyBuilder()
    for item in records:
        text = str(item.completion.content)
        builder.read(item.label)
        builder.keep(item, Encoded([1, 2], list(range(len(text))), images, num_cut=0))
    return builder.finish()


def report_on(batch_size: int = 4, **splits: Tally) -> BalanceReport:
    return balance_report(splits, "0" * 32, batch_size)


def large_report(words: str = "") -> BalanceReport:
    """Two splits of 400 sources, all of whose texts hold `words`, with something in every part of the report."""
    image = ImageRef(f"{words}.png", "ab" * 32, 1_000, 70, num_tokens=3)
    rows = [
        record(
            f"{words} {i % 900}", f"{words} {'x' * (i % 700 if i % 2 else 3)}", i % 2 == 0, source=f"{words}{i % 400}"
        )
        for i in range(2_000)
    ]
    drops = TallyBuilder()
    for i in range(500):
        label = None if i % 5 == 0 else i % 3 == 0
        drops.read(label)
        drops.drop(f"KTO{1 + i % 5}0{1 + i % 3}", label, f"{words}{i % 400}")
    train = Tally().merge([tally_of(*rows), tally_of(*rows[:300], images=(image,)), drops.finish()])
    return report_on(train=train, eval=tally_of(*rows[:50], images=(image, image)))
