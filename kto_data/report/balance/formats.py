"""The formats of the label balance report: name -> how it is written in it."""

from __future__ import annotations

from collections.abc import Callable

from kto_data.report.balance.html import balance_html
from kto_data.report.balance.markdown import balance_markdown
from kto_data.report.balance.model import BalanceReport, report_text
from kto_data.report.balance.text import balance_lines
from kto_data.report.text import Paint


def _full(report: BalanceReport) -> str:
    return "".join(f"{line}\n" for line in balance_lines(report, Paint(color=False)))


FORMATS: dict[str, Callable[[BalanceReport], str]] = {
    "full": _full,
    "json": report_text,
    "markdown": balance_markdown,
    "html": balance_html,
}
