"""The published JSON Schemas, generated from the pydantic models."""

from __future__ import annotations

import json

from pydantic import BaseModel

from kto_data.baseline import BaselineDocument
from kto_data.manifest import FORMAT_VERSION, Manifest
from kto_data.record import Record
from kto_data.report.balance.model import BalanceReport
from kto_data.report.document import FindingEntry, ReportDocument

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

SCHEMAS: dict[str, tuple[type[BaseModel], int]] = {
    "record": (Record, 1),
    "finding": (FindingEntry, 1),
    "report": (ReportDocument, 1),
    "baseline": (BaselineDocument, 1),
    "manifest": (Manifest, FORMAT_VERSION),
    "balance": (BalanceReport, 1),
}
"""Name -> model and format version; the version rises when what was valid no longer is."""


def schema_text(name: str) -> str:
    """The JSON Schema called `name`, as it is published in `schemas/`."""
    model, version = SCHEMAS[name]
    schema = {
        "$schema": _DIALECT,
        "$id": f"urn:ktodata:schema:{name}:{version}",
        **model.model_json_schema(mode="validation" if model is Record else "serialization"),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
