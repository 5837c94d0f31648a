"""The words that options take, for the command line and for configuration files; nothing is imported for them."""

from __future__ import annotations

from typing import Literal

ImageLevel = Literal["off", "stat", "header", "decode"]
FailLevel = Literal["error", "warning", "info"]
OutputFormat = Literal[
    "full", "concise", "grouped", "json", "json-lines", "github", "gitlab", "junit", "sarif", "markdown", "html"
]
ColorMode = Literal["auto", "always", "never"]
EngineName = Literal["local", "ray"]
PackImages = Literal["none", "original", "resized"]
ProgressMode = Literal["auto", "never"]
