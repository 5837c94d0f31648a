"""Every name that this package shares with others: the cache's columns, TRL's batch, the versions it was tried with.

TRL's batch contract: `input_ids`, `attention_mask` and `completion_mask`, the same three under `KL_` for the mismatched
pairs, `label`, and `ref_logps` and `ref_KL_logps` where the reference is cached. **Every other key of a batch goes to
`model.forward`**, so nothing may be added to a batch that the processor did not make.
"""

from __future__ import annotations

# The cache, as `ktodata preprocess` writes it.
PROMPT_IDS = "prompt_ids"
COMPLETION_IDS = "completion_ids"
LABEL = "label"
IMAGES = "images"
SOURCE = "source"
CACHE_COLUMNS: tuple[str, ...] = (
    PROMPT_IDS,
    COMPLETION_IDS,
    LABEL,
    IMAGES,
    "num_tokens",
    "num_image_tokens",
    SOURCE,
    "id",
)

IMAGE_REFS = "image_refs"
"""What `load_cache` calls the `images` column: a trainer that sees `images` takes the rows for raw ones."""

# A batch, as TRL's `_compute_loss` reads it.
INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
COMPLETION_MASK = "completion_mask"
KL_PREFIX = "KL_"
REF_LOGPS = "ref_logps"
REF_KL_LOGPS = "ref_KL_logps"
SEQUENCE_KEYS: tuple[str, ...] = (INPUT_IDS, ATTENTION_MASK, COMPLETION_MASK)
TOKEN_TYPE_KEYS: tuple[str, ...] = ("token_type_ids", "mm_token_type_ids")
"""Keys with one value a token besides the ids; TRL knows these two under `KL_` and no others."""

SIGNATURE_COLUMNS: tuple[str, ...] = (*(c for c in CACHE_COLUMNS if c != IMAGES), IMAGE_REFS, REF_LOGPS, REF_KL_LOGPS)

SUPPORTED: dict[str, str] = {"trl": ">=1.9,!=1.15.*,<1.17", "transformers": ">=5.23,<6"}
"""Versions that the overrides are tested with: `make contract`. TRL 1.15 cannot compute its loss without a GPU."""
