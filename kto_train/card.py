"""The model card: `README.md` of a trained model, with the data, the settings and the versions it was made with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kto_data.writing import write_whole
from kto_train.metrics import Entry, read_metrics
from kto_train.run_record import CONFIG_NAME, RunRecord
from kto_train.run_report import seen_warnings

NAME = "README.md"

_LAST = {
    "loss": "loss",
    "rewards/chosen": "reward of desirable rows",
    "rewards/rejected": "reward of undesirable rows",
    "rewards/margins": "margin",
    "kl": "KL",
    "eval_loss": "evaluation loss",
}


def write(output: Path, record: RunRecord) -> None:
    """Write the card of the run in `output`, in place of what a library left there; raises `InputError`."""
    settings = (output / CONFIG_NAME).read_text(encoding="utf-8")
    lines = card_lines(record, read_metrics(output), settings, name=output.resolve().name)
    write_whole(output / NAME, ("\n".join(lines) + "\n").encode())


def card_lines(record: RunRecord, entries: list[Entry], settings: str, *, name: str) -> Iterator[str]:
    """The card, line by line. `settings` is the text of the configuration file."""
    about = record.about
    config, data = about["config"], about["data"]
    yield from _head(config)
    yield f"# {name}"
    yield ""
    kind = "An adapter for" if config["lora"] is not None else "Made from"
    yield f"{kind} `{config['model']}`, trained with KTO (arXiv 2402.01306) by ktodata {about['ktodata']} and TRL."
    yield ""
    yield "## Data"
    yield ""
    yield from _table(
        {
            "cache": f"`{data['cache']}`",
            "fingerprint": f"`{data['fingerprint']}`",
            "rows": f"{data['rows']:,}: {data['desirable']:,} desirable, {data['undesirable']:,} undesirable",
            "images": f"{data['images']:,}",
            "loss weights": f"desirable {data['desirable weight']:g}, undesirable {data['undesirable weight']:g}",
            "balance b": "undefined" if data["balance"] is None else f"{data['balance']:.4g} (band [1, 4/3])",
            **{f"input {number}": f"`{told}`" for number, told in enumerate(data["inputs"], start=1)},
        }
    )
    yield ""
    yield "## Training"
    yield ""
    last = {
        title: next((e[key] for e in reversed(entries) if e.get(key) is not None), None) for key, title in _LAST.items()
    }
    yield from _table(
        {"steps": f"{about['steps']:,}"} | {title: f"{value:.4g}" for title, value in last.items() if value is not None}
    )
    yield ""
    yield from (f"- Before the first step: {text}" for text in about["warnings"])
    for seen in seen_warnings(entries):
        yield f"- `{seen.name}` in {seen.count:,} logs. The first: {seen.text}"
    yield ""
    yield "## Settings"
    yield ""
    yield from ("```yaml", settings.rstrip("\n"), "```")
    yield ""
    yield "## Versions"
    yield ""
    yield from _table(about["versions"])


def _head(config: dict[str, Any]) -> Iterator[str]:
    """What the hub reads. A local folder is no model that it knows."""
    yield "---"
    yield f"library_name: {'peft' if config['lora'] is not None else 'transformers'}"
    if not Path(config["model"]).exists():
        yield f"base_model: {json.dumps(config['model'])}"
    yield from ("tags:", "- kto", "- trl", "- ktodata")
    yield from ("---", "")


def _table(values: dict[str, str]) -> Iterator[str]:
    yield "| | |"
    yield "|---|---|"
    for name, value in values.items():
        yield f"| {name} | {value} |"
