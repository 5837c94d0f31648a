"""One chunk of an input file to one shard: the work that preprocessing hands to an engine.

    Chunk ─▶ Line(s) ─▶ checked records ─▶ ids ─▶ shard, counts, findings, rejects

Every line that is read is either kept, or dropped under the code of a rule; which, is decided here and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kto_data import __version__, depot, image_file
from kto_data.check import CheckedLine, CheckSettings, LineChecker
from kto_data.choices import PackImages
from kto_data.chunk import Line
from kto_data.clean import Gate
from kto_data.encode import TOO_LONG_CODES, Encoded, Encoder, ImageRef, Refused
from kto_data.finding import Finding, Severity
from kto_data.formats import Layout
from kto_data.image import Content, ImageCheck, ImageProbe, PixelBudget
from kto_data.manifest import FORMAT_VERSION, fingerprint
from kto_data.model_check import RECORDS_AT_ONCE, as_sample, batches, refusal
from kto_data.noting import note_shape
from kto_data.packing import Packed, Packer, UndecodableError
from kto_data.policy import CONTRADICTION_CODE, Invalid, TooLong
from kto_data.processor import Processor, load_processor
from kto_data.rejects import reject_entry
from kto_data.rules.chunk_facts import ChunkFacts
from kto_data.scratch import ScratchFolder
from kto_data.shard import CachedRow, ShardWriter, read_images
from kto_data.tally import TallyBuilder
from kto_data.text_ids import FAST_AFTER_CHARS, TextIds, WrongIdsError
from kto_data.unit import Built, ImageStamp, Unit, find, keep, unit_key
from kto_data.unread import refuse_unread, unread

_REMEMBERED_IMAGES = 100_000  # image files at URLs whose SHA-256 is remembered
_ID_LIBRARIES = ("transformers", "tokenizers", "jinja2", "pillow", "pyarrow", "datasets")
"""Libraries whose version may change ids or bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """All that decides what becomes of a line."""

    model: str
    trust_remote_code: bool = False
    image_root: str  # a resolved folder, or a URL
    budget: PixelBudget
    max_length: int | None = None
    too_long: TooLong = TooLong.ERROR
    invalid: Invalid = Invalid.ERROR
    pack_images: PackImages = "none"
    fast_after: int | None = FAST_AFTER_CHARS  # see `TextIds`; decides how long it takes, and nothing else

    @property
    def checks(self) -> CheckSettings:
        """What a line is held to."""
        return CheckSettings(images=ImageCheck.HEADER, image_root=self.image_root, budget=self.budget)


class Builder:
    """Builds shards; holds what is loaded once a process."""

    def __init__(self, settings: BuildSettings) -> None:
        self.settings = settings
        processor = _loaded or load(settings)
        processor.text_ids = self._text_ids = TextIds(processor.tokenizer, fast_after=settings.fast_after)
        self._settings_key = fingerprint(id_parts(processor, settings) | {"version": __version__})
        self._encoder = Encoder(processor, max_length=settings.max_length, too_long=settings.too_long)
        self._packer = Packer(settings.pack_images, settings.image_root) if settings.pack_images != "none" else None
        self._last_gate: tuple[Layout, ImageCheck, Gate] | None = None
        self._read = lru_cache(_REMEMBERED_IMAGES)(_read)

    def build(self, unit: Unit) -> Built:
        """Read, check and encode the unit's lines and write its shard.

        Raises `InputError` when the shard cannot be written, and `WrongIdsError` where ids may be wrong that this
        process made for this unit or for others.
        """
        root, cache = self.settings.image_root, unit.folder.parent

        def found(key: str) -> Built | None:
            built = find(key, unit, root)
            if built is None and unit.url and unit.caches:
                built = depot.find(key, unit, root)
            return replace(built, at="") if built else None

        built = self._built(unit, found, lambda packer, images: packer.pack(images, cache, unit.caches))
        keep(built, unit, cache)
        return built

    def build_afar(self, unit: Unit) -> Built:
        """The same, the shard put to the cache's URL and nothing to the unit's folder, which is on another machine.

        Raises what `build` does, and `InputError` where the storage fails.
        """
        with ScratchFolder() as scratch:
            here = replace(unit, folder=Path(scratch))

            def found(key: str) -> Built | None:
                return depot.find(key, here, self.settings.image_root) if unit.caches else None

            def pack(packer: Packer, images: Sequence[ImageRef]) -> Packed:
                with depot.reaching(unit.url):
                    return packer.pack_to(unit.url, images, anew=not unit.caches)

            return depot.put(self._built(here, found, pack), here)

    def _built(
        self,
        unit: Unit,
        find: Callable[[str], Built | None],
        pack: Callable[[Packer, Sequence[ImageRef]], Packed],
    ) -> Built:
        """What became of the unit: found by its key, or made anew in its folder; then its images are packed."""
        lines = tuple(unit.chunk.lines())
        key = unit_key(self._settings_key, unit, lines)

        def packed(built: Built) -> Built:
            if self._packer is None or built.shard is None:
                return built
            return replace(built, packed=pack(self._packer, read_images(unit.folder / built.shard.path)))

        try:
            return packed(find(key) or replace(self._build_anew(unit, lines), key=key))
        except UndecodableError:  # whose rows are no rows to train on, which only this look at images tells
            return packed(replace(self._build_anew(unit, lines, ImageCheck.DECODE), key=key))

    def _build_anew(self, unit: Unit, lines: Sequence[Line], images: ImageCheck = ImageCheck.HEADER) -> Built:
        output = _Output(unit.chunk.path, frozenset(lines[place] for place in unit.contradicting))
        gate = self._gate(unit.layout, images)
        for batch in batches(gate.check(lines), RECORDS_AT_ONCE):
            self._build_batch(batch, output)
        if self._text_ids.has_erred:
            raise WrongIdsError(self._text_ids.engine)
        shard = output.shard.write(unit.folder, unit.name) if output.shard.num_rows else None
        return Built(
            shard,
            output.tally.finish(),
            output.facts,
            tuple(output.findings),
            tuple(output.rejects),
            images=None if output.has_image_faults else tuple(output.images.values()),
            ids_by=self._text_ids.engine,
        )

    def _gate(self, layout: Layout, images: ImageCheck) -> Gate:
        """What checks the files at hand, kept for what it remembers of images while their layout stays."""
        if self._last_gate is None or self._last_gate[:2] != (layout, images):
            checker = LineChecker(layout, replace(self.settings.checks, images=images, with_image_contents=True))
            self._last_gate = layout, images, Gate(checker)
        return self._last_gate[2]

    def _build_batch(self, batch: list[CheckedLine], output: _Output) -> None:
        """Encode the sound lines of a batch together, then hand out all of its lines in order."""
        sound = [c for c in batch if c.is_trainable and not output.contradicts(c.line)]
        items = [item for checked in sound for item in checked.samples]
        distant = {found.tried: None for item in items for found in item.probes if found.content is None}
        image_file.for_each(self.settings.image_root, self._read, distant)  # which remembers them
        samples = [as_sample(item, self.settings.budget, self._digest) for item in items]
        for sample, item in zip(samples, items, strict=True):
            for image, found in zip(sample.images, item.probes, strict=True):
                output.images[image.path] = ImageStamp(image.path, *self._content(found))
        answers = iter(self._encoder.encode(samples))
        for checked in batch:
            refuse_unread(checked, self.settings.image_root)
            output.findings += checked.findings
            note_shape(checked, output.facts)
            for label in checked.labels:
                output.tally.read(label)
            if not checked.labels:
                continue  # a blank line, reported and no record
            if not checked.is_trainable:
                output.has_image_faults |= checked.has_image_faults
                codes = sorted({f.code for f in checked.findings if f.severity is Severity.ERROR})
                output.reject(checked, codes)
            elif output.contradicts(checked.line):
                output.reject(checked, [CONTRADICTION_CODE])
            else:
                self._place(checked, [next(answers) for _ in checked.samples], output)

    def _content(self, found: ImageProbe) -> Content:
        return found.content or self._read(found.tried)

    def _digest(self, found: ImageProbe) -> str:
        return self._content(found).sha256

    def _place(self, checked: CheckedLine, answers: list[Encoded | Refused], output: _Output) -> None:
        line, both = checked.line, list(zip(checked.samples, answers, strict=True))
        refused = [(item, answer) for item, answer in both if isinstance(answer, Refused)]
        if refused:
            # A line stands or falls as a whole: half of a pair would shift the balance of the labels.
            dropping = self.settings.too_long is TooLong.DROP and all(a.code in TOO_LONG_CODES for _, a in refused)
            if not dropping:
                output.findings += [refusal(answer, item) for item, answer in refused]
            output.reject(checked, sorted({answer.code for _, answer in refused}))
            return
        for item, answer in both:
            assert isinstance(answer, Encoded)
            record = item.record
            record_id = None if record.id is None else str(record.id)
            output.shard.add(CachedRow(answer, record.label, line.path, line.number, record_id))
            output.tally.keep(record, answer)


class _Output:
    """What a unit has given so far."""

    def __init__(self, path: str, contradicting: frozenset[Line]) -> None:
        self._contradicting = contradicting
        self.facts = ChunkFacts(path)
        self.shard = ShardWriter()
        self.tally = TallyBuilder()
        self.findings: list[Finding] = []
        self.rejects: list[bytes] = []
        self.images: dict[str, ImageStamp] = {}  # by the path in the records
        self.has_image_faults = False

    def contradicts(self, line: Line) -> bool:
        """Whether a line that is sound by itself goes because of another one."""
        return bool(self._contradicting) and line in self._contradicting  # a line's hash is not to be had for nothing

    def reject(self, checked: CheckedLine, codes: list[str]) -> None:
        for label in checked.labels:
            self.tally.drop(codes[0], label, checked.source)
        self.rejects.append(reject_entry(checked.line, codes))


_loaded: Processor | None = None
_builder: Builder | None = None


def load(settings: BuildSettings) -> Processor:
    """The model's processor, loaded anew; what is built in this process from now on is built with it.

    Raises what `load_processor` raises.
    """
    global _loaded
    # One thread a process: the engine's jobs already use every processor.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _loaded = load_processor(settings.model, trust_remote_code=settings.trust_remote_code)
    return _loaded


def start(settings: BuildSettings) -> None:
    """Make ready in this process for its first unit: load the model's processor, unless `load` has."""
    global _builder
    _builder = Builder(settings)


def build(unit: Unit) -> Built:
    """Build one unit with what `start` loaded."""
    assert _builder is not None, "start() comes first"
    return _builder.build(unit)


def build_afar(unit: Unit) -> Built:
    """Build one unit with what `start` loaded, on a machine that does not see the unit's folder."""
    assert _builder is not None, "start() comes first"
    return _builder.build_afar(unit)


def id_parts(processor: Processor, settings: BuildSettings) -> dict[str, Any]:
    """All that decides what becomes of lines, images apart, each by the name that a person knows it by."""
    return {
        "format_version": FORMAT_VERSION,
        **processor.fingerprint_parts(),
        "image_min_pixels": settings.budget.min_pixels,
        "image_max_pixels": settings.budget.max_pixels,
        "max_length": settings.max_length,
        "too_long": settings.too_long.value,
        "libraries": {"ktodata": __version__, **{name: version(name) for name in _ID_LIBRARIES}},
    }


def _read(found: str) -> Content:
    try:
        before = image_file.state(found)  # so that what changes while it is read is read again
        return Content(image_file.sha256(found), before)
    except OSError as error:
        raise unread(found, error) from None
