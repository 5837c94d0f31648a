"""A model's tokenizer, chat template and image processor: the only home of transformers.

Two questions are answered here, without weights and without pixels:

- what text does the chat template make of a record (`render`), and
- what does an image of a size become in that text (`image_span`).

How many tokens an image takes depends on its size alone, so a processor is asked once a distinct size, with a blank
image, and its answer remembered. Nothing here knows a model family.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kto_data import hub
from kto_data.errors import ModelError, first_line, require_packages
from kto_data.image_tokens import Run, SizeCounting, most_repeated
from kto_data.model_identity import identity
from kto_data.record import Record
from kto_data.startup import import_on_first_use, no_garbage_collection
from kto_data.template import Rendered, render_all
from kto_data.text_ids import TextIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

_PROBE_TEXT = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """What an image placeholder becomes in the text: `replacement`, which is `num_tokens` ids on its own."""

    replacement: str
    num_tokens: int


class Processor:
    """The parts of a model folder that make ids of records.

    `processing_class` is what TRL calls by that name: a transformers processor for a model that takes images
    (`has_images`), a tokenizer for one that does not.
    """

    def __init__(self, model: str, processing_class: ProcessorMixin | PreTrainedTokenizerBase) -> None:
        self.model = model
        self.processing_class: Any = processing_class
        self.has_images = hasattr(processing_class, "image_processor")  # processors of text models have none
        self.tokenizer: PreTrainedTokenizerBase = (
            self.processing_class.tokenizer if hasattr(processing_class, "tokenizer") else processing_class
        )
        self.name = type(processing_class).__name__
        self.text_ids = TextIds(self.tokenizer)
        self._spans: dict[tuple[tuple[int, int], int], ImageSpan] = {}  # by size, and images of the row
        self._counting = SizeCounting(self.processing_class) if self.has_images else None
        self._run: Run | None = None  # known once a first image is
        special = (token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special)
        # The longest first: of two that begin alike, the tokenizer takes the longer one.
        self.special_tokens = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")

    @property
    def image_token(self) -> str:
        """The text that stands for one image in a rendered prompt."""
        return str(self.processing_class.image_token)

    # -- text ---------------------------------------------------------------------------------------------------

    def render(self, records: Sequence[Record]) -> list[Rendered | ValueError]:
        """The prompt and the conversation of each record as the chat template writes them, without expanded images; an
        error in the place of a record that it refuses."""
        return render_all(self.processing_class, records, with_images=self.has_images)

    def control_tokens_in(self, record: Record) -> list[tuple[int, str]]:
        """The model's own special tokens that stand in the texts of a record, each with the index of its message.

        Its tokenizer would take them for what they look like: the end of a message, or the place of an image.
        """
        find = self.special_tokens.findall
        found = [
            (index, token)
            for index, message in enumerate(record.messages)
            for text in message.texts()
            for token in find(text)
        ]
        return list(dict.fromkeys(found))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, with no special tokens added: templates write their own.

        Runs of the image token are tokenized as one and spliced in as ids: an image of two megapixels is thousands
        of them.
        """
        if self._run is None:
            return self.text_ids.of(texts)
        shortened = [self._run.shorten(text) for text in texts]
        rows = self.text_ids.of([text for text, _ in shortened])
        for index, (_, lengths) in enumerate(shortened):
            if rows[index].count(self._run.id) != len(lengths):  # in this text the token is not always one id
                rows[index] = self.text_ids.of([texts[index]])[0]
            elif lengths:
                rows[index] = self._run.lengthen(rows[index], lengths)
        return rows

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included and no space mended."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    # -- images -------------------------------------------------------------------------------------------------

    def image_span(self, size: tuple[int, int], num_images: int = 1) -> ImageSpan:
        """What an image of `size` (width, height), upright and within the pixel budget, becomes in the text as one of
        the `num_images` images of its row.

        Raises `ValueError` when the processor refuses the size, `ModelError` when its own count of tokens turns out
        to be wrong for a size.
        """
        assert self._counting is not None, "a text model has no images"
        if num_images > 1 and not self._counting.number_matters:
            num_images = 1
        span = self._spans.get((size, num_images))
        if span is None:
            replacement = self._counting.replacement(size, num_images)
            self._run = self._run or self._find_run(replacement)
            span = ImageSpan(replacement, len(self.tokenize([replacement])[0]))
            self._spans[size, num_images] = span
        return span

    def _find_run(self, replacement: str) -> Run | None:
        token = most_repeated(replacement, self.tokenizer)
        ids = self.text_ids.of([token])[0]
        return Run(token, ids[0]) if len(ids) == 1 else None

    def expand(self, prompt: str, spans: Sequence[ImageSpan]) -> str:
        """`prompt` with each image placeholder replaced by what its image becomes.

        Raises `ValueError` when the numbers of placeholders and images differ: the text holds the model's own image
        token, or the template leaves an image out.
        """
        pieces = prompt.split(self.image_token)
        if len(pieces) - 1 != len(spans):
            raise ValueError(
                f"the rendered prompt has {len(pieces) - 1} image tokens {self.image_token!r} for {len(spans)} images"
            )
        text = [pieces[0]]
        for span, piece in zip(spans, pieces[1:], strict=True):
            text += [span.replacement, piece]
        return "".join(text)

    # -- whether it can be used ---------------------------------------------------------------------------------

    def check_usable(self) -> None:
        """Raises `ModelError` when there is no vocabulary or no chat template, or when ids of rows with images cannot
        be known from the sizes of the images."""
        if not self.tokenize([_PROBE_TEXT])[0]:
            # transformers loads a folder without its vocabulary as an empty tokenizer, without a word.
            raise ModelError(
                f"the tokenizer of {self.model} gives no tokens: its vocabulary file is missing",
                hint="copy tokenizer.json (or vocab.json and merges.txt) into the folder",
            )
        if not (self.processing_class.chat_template or self.tokenizer.chat_template):
            raise ModelError(
                f"{self.model} has no chat template",
                hint="add chat_template.jinja to the folder, written as the model was trained",
            )
        if self._counting is not None:
            self._counting.check()

    # -- identity -----------------------------------------------------------------------------------------------

    def fingerprint_parts(self) -> dict[str, str]:
        """Hashes of all that decides the ids: "tokenizer", "chat_template" and "image_processor"."""
        return self._identity

    @cached_property
    def _identity(self) -> dict[str, str]:
        return identity(self.processing_class, self.tokenizer, with_images=self.has_images)


@no_garbage_collection()
def load_processor(model: str | Path, *, trust_remote_code: bool = False) -> Processor:
    """The processor of the model folder (or hub id) `model`; weights are not read.

    Raises `MissingExtraError` without transformers, and `ModelError` when the folder has no usable tokenizer, no chat
    template, or an image processor that cannot say what it makes of an image.
    """
    _find(model)  # before anything that takes seconds
    is_of_texts_alone = _is_of_texts_alone(model)
    try:
        if is_of_texts_alone:
            import_on_first_use("torch")
            from transformers import AutoTokenizer as Loader
        else:
            from transformers import AutoProcessor as Loader
    except ModuleNotFoundError as error:
        raise ModelError(
            f"transformers cannot be imported: {error.__cause__ or error}", hint=_TORCHVISION_HINT
        ) from None
    try:
        options = {"config": _config(model)} if is_of_texts_alone else {}
        loaded = Loader.from_pretrained(str(model), trust_remote_code=trust_remote_code, **options)
    except Exception as error:  # a spoilt file can make anything of it: tokenizers raises `Exception` itself
        if find_spec("torchvision") is None and "torchvision" in str(error).lower():
            raise ModelError(
                f"the image processor of {model} needs torchvision, which is not installed", hint=_TORCHVISION_HINT
            ) from None
        if isinstance(error, ImportError):
            raise ModelError(f"the processor of {model} needs a package: {first_line(error)}") from None
        raise ModelError(
            f"no tokenizer or processor can be loaded from {model}: {first_line(error)}",
            hint="--model takes a folder with tokenizer.json (and preprocessor_config.json for images), or a hub id",
        ) from None
    processor = Processor(str(model), loaded)
    processor.check_usable()
    return processor


def _find(model: str | Path) -> None:
    require_packages(["transformers"], extra="preprocess", needed_for="reading a model")
    if not os.path.isdir(model):
        if os.path.exists(model) or os.path.isabs(model) or str(model).startswith("."):
            raise ModelError(f"{model} is not a folder", hint="--model takes a model folder or a hub id")
        hub.look_for(str(model))


_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_OTHER_FILES = ("tokenizer_config.json", "config.json")


def _is_of_texts_alone(model: str | Path) -> bool:
    """Whether nothing in a model folder speaks of more than texts: then its tokenizer is what a processor would be.

    To ask transformers for a processor takes seconds longer, for all the models that it imports first.
    """
    folder = Path(model)
    if not folder.is_dir() or any((folder / name).exists() for name in _PROCESSOR_FILES):
        return False
    for name in _OTHER_FILES:
        try:
            settings = json.loads((folder / name).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return False  # whoever loads it says what is wrong with it
        if not isinstance(settings, dict) or "processor_class" in settings or "auto_map" in settings:
            return False
        if any(key.endswith("_config") and key != "quantization_config" for key in settings):
            return False  # a model made of models, such as one for images and one for texts
    return True


def _config(model: str | Path) -> Any:
    """The model's configuration but for the type of its weights, of which transformers makes one of torch; None where
    it is to be read by whoever needs it, and says what is wrong with it."""
    from transformers import AutoConfig

    try:
        settings = json.loads((Path(model) / "config.json").read_bytes())
        settings = {name: value for name, value in settings.items() if name not in ("dtype", "torch_dtype")}
        return AutoConfig.for_model(**settings, name_or_path=str(model))
    except (OSError, TypeError, ValueError):
        return None


_TORCHVISION_HINT = "pip install torchvision (a build that matches torch), or check the installation"
