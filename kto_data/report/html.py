"""The result as one HTML file."""

from __future__ import annotations

from kto_data.report.outcome import Outcome
from kto_data.report.page import make_page
from kto_data.report.template import render


def html_report(outcome: Outcome) -> str:
    """The report as a whole file."""
    return render("report.html", script="report.js", page=make_page(outcome))
