"""The rules, listed in one tuple: no registry, nothing registers itself."""

from __future__ import annotations

from kto_data.rules import chat, corpus, label, media, schema
from kto_data.rules.base import AnyRule

ALL_RULES: tuple[AnyRule, ...] = (
    schema.invalid_json,
    schema.invalid_utf8,
    schema.blank_line,
    schema.duplicate_json_key,
    schema.utf8_bom,
    schema.row_not_object,
    schema.non_finite_number,
    schema.lone_surrogate,
    schema.missing_field,
    schema.wrong_type,
    schema.unknown_field,
    schema.images_not_list,
    schema.mixed_formats,
    schema.unmapped_images,
    media.image_not_found,
    media.image_unreadable,
    media.image_path_escapes_root,
    media.image_truncated,
    media.remote_image,
    media.over_pixel_budget,
    media.under_min_pixels,
    media.extreme_aspect_ratio,
    media.decompression_bomb,
    media.not_a_regular_file,
    chat.last_turn_not_assistant,
    chat.invalid_role,
    chat.system_not_first,
    chat.non_alternating_turns,
    chat.image_placeholder_mismatch,
    chat.empty_completion,
    chat.empty_prompt,
    chat.image_in_completion,
    chat.special_token_in_content,
    corpus.conflicting_labels,
    label.label_not_boolean,
    corpus.single_class,
    corpus.label_imbalance,
    corpus.exact_duplicate,
)
"""In the order of their codes."""
