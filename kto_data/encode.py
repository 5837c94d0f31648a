"""Record to ids: what a trainer feeds, worked out from image sizes alone.

    Record + image sizes ─▶ Encoded  (prompt ids, completion ids, image spans)
                        └─▶ Refused  (a rule code and why)

Nothing is cut but the tail of a completion, and that only where the user asked for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kto_data.finding import Scalar
from kto_data.policy import TooLong
from kto_data.processor import ImageSpan, Processor
from kto_data.record import Message, Record
from kto_data.template import Rendered, common_prefix_length


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image of a sample: where it is and how it enters the sequence."""

    path: str  # relative to the image root
    sha256: str  # of the file's bytes
    width: int  # pixels, upright, within the pixel budget: the size to hand to the processor
    height: int
    num_tokens: int  # ids that its placeholder became


@dataclass(frozen=True, slots=True)
class Sample:
    """A checked record with its images, whose `num_tokens` is not known yet (0)."""

    record: Record
    images: tuple[ImageRef, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample as ids, image placeholders expanded."""

    prompt_ids: list[int]
    completion_ids: list[int]
    images: tuple[ImageRef, ...]
    num_cut: int  # ids cut from the completion's tail

    @property
    def num_tokens(self) -> int:
        """Length of the sequence."""
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def num_image_tokens(self) -> int:
        """How many of them stand for images."""
        return sum(image.num_tokens for image in self.images)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a sample has no ids. `code` is that of the rule which explains it."""

    code: str
    message: str
    pointer: str = ""  # JSON Pointer in canonical spelling
    num_tokens: int = 0  # length of the sequence; 0 where the refusal came before it was known
    quotes: tuple[str, ...] = ()  # pieces of `message` that may be content of the record
    data: tuple[tuple[str, Scalar], ...] = ()


OVER_MAX_LENGTH = "KTO501"
PROMPT_FILLS_MAX_LENGTH = "KTO502"
IMAGE_TOKENS_OVER_MAX_LENGTH = "KTO503"
TEMPLATE_REFUSES = "KTO505"
MODEL_WITHOUT_IMAGES = "KTO506"
CONTROL_TOKEN = "KTO309"
IMAGE_REFUSED = "KTO212"
TOO_LONG_CODES = frozenset({OVER_MAX_LENGTH, PROMPT_FILLS_MAX_LENGTH, IMAGE_TOKENS_OVER_MAX_LENGTH})


class Encoder:
    """Makes ids of samples, for one model, one maximum length and one policy."""

    def __init__(
        self, processor: Processor, *, max_length: int | None = None, too_long: TooLong = TooLong.ERROR
    ) -> None:
        self.processor = processor
        self.max_length = max_length
        self.too_long = too_long

    def encode(self, samples: Sequence[Sample]) -> list[Encoded | Refused]:
        """One answer a sample, in order. Texts of all samples are tokenized together, which is what is fast.

        The ids equal those that TRL makes: its vision collator's for a model that takes images, which tokenizes
        prompt and completion each alone; its tokenizing step's for a text model, which splits the ids of the whole
        conversation where they leave those of the prompt.
        """
        prepared = self._prepare(samples)
        texts = [text for item in prepared if isinstance(item, _Prepared) for text in item.texts]
        ids = iter(self.processor.tokenize(texts))
        return [item if isinstance(item, Refused) else self._finish(item, next(ids), next(ids)) for item in prepared]

    def _prepare(self, samples: Sequence[Sample]) -> list[_Prepared | Refused]:
        refused = [self._refuse(sample) for sample in samples]
        records = [sample.record for sample, refusal in zip(samples, refused, strict=True) if refusal is None]
        rendered = iter(self.processor.render(records))
        return [
            refusal or self._prepare_rendered(sample, next(rendered))
            for sample, refusal in zip(samples, refused, strict=True)
        ]

    def _refuse(self, sample: Sample) -> Refused | None:
        if sample.images and not self.processor.has_images:
            return Refused(MODEL_WITHOUT_IMAGES, f"the record has images, and {self.processor.model} takes none")
        tokens = self.processor.control_tokens_in(sample.record)
        if tokens:
            index, token = tokens[0]
            where = f"/messages/{index}/content"
            return Refused(CONTROL_TOKEN, f"the text holds the control token {token}", where, data=(("token", token),))
        return None

    def _prepare_rendered(self, sample: Sample, rendered: Rendered | ValueError) -> _Prepared | Refused:
        if isinstance(rendered, ValueError):
            # A template may put anything into its complaint, the text of a message too.
            reason = str(rendered)
            message, quotes = f"the chat template refuses it: {reason}", (reason,) if reason else ()
            return Refused(TEMPLATE_REFUSES, message, "/messages", quotes=quotes)
        lost = what_is_lost(sample.record, rendered)
        if lost is not None:
            return lost
        if not self.processor.has_images:
            return _Prepared((), (rendered.alone, rendered.whole))
        return self._prepare_with_images(sample, rendered)

    def _prepare_with_images(self, sample: Sample, rendered: Rendered) -> _Prepared | Refused:
        spans: list[ImageSpan] = []
        for index, image in enumerate(sample.images):
            try:
                spans.append(self.processor.image_span((image.width, image.height), len(sample.images)))
            except ValueError as error:
                size = f"{image.width}x{image.height}"
                return Refused(IMAGE_REFUSED, f"the processor refuses an image of {size}: {error}", f"/images/{index}")
        prompt, completion = rendered.split()
        try:
            prompt = self.processor.expand(prompt, spans)
        except ValueError as error:
            return Refused(TEMPLATE_REFUSES, str(error), "/messages")
        images = tuple(
            ImageRef(image.path, image.sha256, image.width, image.height, span.num_tokens)
            for image, span in zip(sample.images, spans, strict=True)
        )
        return _Prepared(images, (prompt, completion))

    def _finish(self, item: _Prepared, first: list[int], second: list[int]) -> Encoded | Refused:
        if self.processor.has_images:
            prompt_ids, completion_ids = first, second
        else:
            num_prompt = common_prefix_length(first, second)
            prompt_ids, completion_ids = first[:num_prompt], second[num_prompt:]
        if not completion_ids:
            return Refused(TEMPLATE_REFUSES, "the chat template leaves no completion tokens", "/messages")
        encoded = Encoded(prompt_ids, completion_ids, item.images, num_cut=0)
        if self.max_length is None or encoded.num_tokens <= self.max_length:
            return encoded
        return self._fit(encoded, self.max_length)

    def _fit(self, encoded: Encoded, max_length: int) -> Encoded | Refused:
        num_prompt, num_images, num_tokens = len(encoded.prompt_ids), encoded.num_image_tokens, encoded.num_tokens
        data = (("tokens", num_tokens), ("max_length", max_length))
        if num_images >= max_length:
            message = f"its images alone are {num_images:,} tokens, of {max_length:,} allowed"
            return Refused(IMAGE_TOKENS_OVER_MAX_LENGTH, message, "/images", num_tokens, data=data)
        if num_prompt >= max_length:
            message = f"its prompt alone is {num_prompt:,} tokens, of {max_length:,} allowed"
            return Refused(PROMPT_FILLS_MAX_LENGTH, message, "/messages", num_tokens, data=data)
        if self.too_long is not TooLong.TRUNCATE_COMPLETION:
            message = f"it is {num_tokens:,} tokens, of {max_length:,} allowed"
            return Refused(OVER_MAX_LENGTH, message, "/messages", num_tokens, data=data)
        kept = encoded.completion_ids[: max_length - num_prompt]
        num_cut = len(encoded.completion_ids) - len(kept)
        return Encoded(encoded.prompt_ids, kept, encoded.images, num_cut=num_cut)


def what_is_lost(record: Record, rendered: Rendered) -> Refused | None:
    """The refusal of a record that the chat template does not write whole; None where it does.

    Templates may trim texts, move the system message, spell a tool's answer as JSON, and leave out what an assistant
    thought in earlier turns; everything else that a message says must be there, in the order of the messages.
    """
    position = 0
    for index, message in enumerate(record.messages):
        for text in _texts(message, is_completion=message is record.completion):
            found = rendered.whole.find(text, 0 if message.role == "system" else position)
            if found < 0 and message.role == "tool":
                text = json.dumps(text, ensure_ascii=False)[1:-1]
                found = rendered.whole.find(text, position)
            if found < 0:
                told = f"the chat template leaves out text of message {index + 1} ({message.role})"
                return Refused(TEMPLATE_REFUSES, told, f"/messages/{index}")
            if message.role != "system":
                position = found + len(text)
    if not rendered.whole.startswith(rendered.alone.rstrip()):
        end = rendered.alone[common_prefix_length(rendered.alone, rendered.whole) :]
        end = repr(end if len(end) <= _SHOWN_CHARS else end[:_SHOWN_CHARS] + "…")
        told = f"the prompt by itself ends in {end}, which is not there before the completion: another text is trained"
        return Refused(TEMPLATE_REFUSES, told, "/messages", quotes=(end,))
    return None


_SHOWN_CHARS = 40  # of what is not as it should be
_THOUGHT = re.compile(r"</?think>")


def _texts(message: Message, *, is_completion: bool) -> Iterator[str]:
    """The pieces of a message that a chat template must write as they are."""
    for text in message.texts():
        # What was thought and what was answered are set apart by each template in its own way.
        pieces = _THOUGHT.split(text) if message.role == "assistant" and "think>" in text else [text]
        for piece in pieces if is_completion else pieces[-1:]:
            if piece := piece.strip():
                yield piece


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A sample whose text is ready: two texts to tokenize, and its images with their tokens counted."""

    images: tuple[ImageRef, ...]
    texts: tuple[str, str]
