"""`report.html`: a run as one page that needs nothing else, made of its record and its metrics.

RunRecord, metrics ─▶ RunPage ─▶ templates/training.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kto_data.report.template import render
from kto_data.writing import write_whole
from kto_train.lines import HEIGHT, WIDTH, Panel, panel
from kto_train.metrics import WARNINGS, Entry, curves_of, read_metrics
from kto_train.run_record import RunRecord

NAME = "report.html"

Facts = tuple[tuple[str, str], ...]
"""Name and value of each."""

_TILES = (("loss", "loss"), ("rewards/margins", "margin"), ("kl", "KL"), ("eval_loss", "evaluation loss"))


@dataclass(frozen=True, slots=True)
class SeenWarning:
    """What a watch saw: in how many logs, at which steps first and last, and what it said of the first."""

    name: str
    text: str
    count: int
    first_step: int
    last_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """What the page shows."""

    status: str
    step: int
    num_steps: int
    tiles: Facts
    panels: tuple[Panel, ...]
    plan_warnings: tuple[str, ...]
    warnings: tuple[SeenWarning, ...]
    data: Facts
    settings: Facts
    about: Facts


def write(output: Path, record: RunRecord) -> None:
    """Write the page of the run in `output`; raises `InputError` where that fails."""
    page = make_page(record, read_metrics(output))
    text = render("training.html", page=page, width=WIDTH, height=HEIGHT)
    write_whole(output / NAME, text.encode())


def make_page(record: RunRecord, entries: list[Entry]) -> RunPage:
    """The page of a run as far as it is."""
    about = dict(record.about)
    data, config = about.pop("data", {}), about.pop("config", {})
    return RunPage(
        status=record.status,
        step=max((entry["step"] for entry in entries), default=0),
        num_steps=about.pop("steps", 0),
        tiles=tuple(_tiles(entries)),
        panels=tuple(panel(title, curves) for title, curves in curves_of(entries).items()),
        plan_warnings=tuple(about.pop("warnings", ())),
        warnings=seen_warnings(entries),
        data=tuple(_flat(data)),
        settings=tuple(_flat(config)),
        about=tuple(_flat(about)),
    )


def seen_warnings(entries: list[Entry]) -> tuple[SeenWarning, ...]:
    """What the watches saw in a run, in the order first seen."""
    steps: dict[str, list[int]] = {}
    texts: dict[str, str] = {}
    for entry in entries:
        for name, text in entry.get(WARNINGS, {}).items():
            steps.setdefault(name, []).append(entry["step"])
            texts.setdefault(name, text)
    return tuple(SeenWarning(name, texts[name], len(found), found[0], found[-1]) for name, found in steps.items())


def _tiles(entries: list[Entry]) -> Iterator[tuple[str, str]]:
    """The last value of what matters most."""
    for key, title in _TILES:
        values = [entry[key] for entry in entries if entry.get(key) is not None]
        if values:
            yield title, f"{values[-1]:.4g}"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values by dotted name; what is empty is left out."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        elif isinstance(inner, list):
            yield from ((f"{prefix}{key}", str(one)) for one in inner)
        else:
            told = "null" if inner is None else f"{inner:.6g}" if isinstance(inner, float) else str(inner)
            yield f"{prefix}{key}", told
