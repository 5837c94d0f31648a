"""Images by their headers: size, orientation, pixel budget. The only home of Pillow.

`ImageHeader.width` and `.height` are those of the upright image, after the EXIF orientation is applied: the size that
training sees. `PixelBudget.fit` gives the size after the user's pixel budget. `validate`, `preprocess` and the
training collator all take both from here, so that the tokens counted are the tokens fed.
"""

from kto_data.image.budget import DEFAULT_MAX_PIXELS, DEFAULT_MIN_PIXELS, PixelBudget
from kto_data.image.header import BOMB_PIXELS, DECODE_ERRORS, ImageHeader, NotAnImageError, read_header
from kto_data.image.pixels import (
    blank,
    is_larger,
    load_for_training,
    load_upright,
    noise,
    resize,
    shows_one_color,
    thumbnail,
    to_rgb,
)
from kto_data.image.probing import (
    BLOCK_BYTES,
    END_MARKERS,
    END_WINDOW,
    Content,
    ImageCheck,
    ImageProbe,
    ProbeStatus,
    probe,
    state_of,
)
from kto_data.image.reading import read_image
from kto_data.image.scaled import as_pixels, from_pixels, holds_our_pixels, num_bytes_as_pixels

__all__ = [
    "BLOCK_BYTES",
    "BOMB_PIXELS",
    "DECODE_ERRORS",
    "DEFAULT_MAX_PIXELS",
    "DEFAULT_MIN_PIXELS",
    "END_MARKERS",
    "END_WINDOW",
    "Content",
    "ImageCheck",
    "ImageHeader",
    "ImageProbe",
    "NotAnImageError",
    "PixelBudget",
    "ProbeStatus",
    "as_pixels",
    "blank",
    "from_pixels",
    "holds_our_pixels",
    "is_larger",
    "load_for_training",
    "load_upright",
    "noise",
    "num_bytes_as_pixels",
    "probe",
    "read_header",
    "read_image",
    "resize",
    "shows_one_color",
    "state_of",
    "thumbnail",
    "to_rgb",
]
