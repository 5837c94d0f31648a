"""KTO data, text or text with images, from a JSONL file to an exact token cache."""

__version__ = "0.1.0"
