"""KTO7xx: the config of the training to come, held against the data and against itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from kto_data.errors import ModelError
from kto_data.finding import Severity
from kto_data.rules.base import Defect, Requirement, Stage, rule
from kto_data.rules.facts import ConfigFacts
from kto_data.training import Problem, TrainPlan, cache_mismatches

if TYPE_CHECKING:
    from kto_data.manifest import Manifest


@rule("KTO701", "unknown-config-key", Severity.ERROR, Stage.CONFIG, requires=Requirement.TRAIN_CONFIG)
def unknown_config_key(facts: ConfigFacts) -> Iterator[Defect]:
    """Every key of a training config must be known, and hold what it can hold.

    A trainer that takes any key trains with its default in place of the misspelt one. Where TRL or peft is not
    installed, the keys that are theirs cannot be looked at, which is said as a warning.

    Bad:  `kto: {leanring_rate: 1e-6}`
    Good: `kto: {learning_rate: 1e-6}`
    """
    plan = facts.plan
    assert plan is not None
    unchecked = (replace(defect, severity=Severity.WARNING) for defect in _defects(plan, plan.unchecked))
    yield from sorted(chain(_defects(plan, plan.problems), unchecked), key=_place)


@rule("KTO702", "kl-batch-size-one", Severity.ERROR, Stage.CONFIG, requires=Requirement.TRAIN_CONFIG)
def kl_batch_size_one(facts: ConfigFacts) -> Iterator[Defect]:
    """A batch of a device must have two rows or more, unless the loss has no KL term.

    The KL term takes each row's prompt with the completion of another row of its batch. In a batch of one it is the
    row's own: the term becomes the reward itself, and cancels it.

    Bad:  `kto: {per_device_train_batch_size: 1}`
    Good: `kto: {per_device_train_batch_size: 4}`, or `loss_type: apo_zero_unpaired`
    """
    assert facts.plan is not None
    yield from _defects(facts.plan, facts.plan.batches_of_one())


@rule("KTO703", "eval-without-data", Severity.ERROR, Stage.CONFIG, requires=Requirement.TRAIN_CONFIG)
def eval_without_data(facts: ConfigFacts) -> Iterator[Defect]:
    """A config that asks for evaluation needs an eval split.

    Otherwise the run ends at its first evaluation, after the hours before it. Asked are the config's cache, where it
    is made already, and the data that is validated.

    Bad:  `kto: {eval_strategy: steps}`, with training data alone
    Good: the same with `--split eval=FILE`, or without the key
    """
    plan = facts.plan
    assert plan is not None
    manifest = _manifest(plan)
    if manifest is not None and "eval" not in manifest.splits:
        yield from _defects(plan, plan.evaluation_without(str(plan.cache)))
    elif manifest is None and not facts.has_eval_split:
        yield from _defects(plan, plan.evaluation_without("the data"))


@rule("KTO704", "weights-out-of-range", Severity.WARNING, Stage.CONFIG, requires=Requirement.TRAIN_CONFIG)
def weights_out_of_range(facts: ConfigFacts) -> Iterator[Defect]:
    """The loss weights of a config should balance the labels of the data.

    With b = (desirable weight x desirable samples) / (undesirable weight x undesirable samples), b should lie between
    1 and 4/3, as for KTO404. `weights: auto` always does.

    Bad:  `weights: {desirable: 1.0, undesirable: 1.0}`, for 900 desirable and 100 undesirable samples
    Good: `weights: {desirable: 1.0, undesirable: 7.0}`
    """
    assert facts.plan is not None
    if facts.num_desirable and facts.num_undesirable:
        yield from _defects(facts.plan, facts.plan.unbalanced(facts.num_desirable, facts.num_undesirable))


@rule("KTO705", "cache-model-mismatch", Severity.ERROR, Stage.CONFIG, requires=Requirement.TRAIN_CONFIG)
def cache_model_mismatch(facts: ConfigFacts) -> Iterator[Defect]:
    """The cache of a config must have been made with the tokenizer, template and pixel budget of its model.

    The ids in a cache mean something to one tokenizer alone, and the images must be resized as when their tokens were
    counted. The message names the part that differs. A cache that is not made yet cannot differ.

    Bad:  a cache made before the chat template was mended
    Good: `ktodata preprocess` run again
    """
    plan = facts.plan
    assert plan is not None
    manifest = _manifest(plan)
    if manifest is not None:
        other_model = _other_model(plan, manifest)
        yield from sorted(chain(_defects(plan, _other_budget(facts, manifest)), other_model), key=_place)


@rule("KTO706", "learning-rate-out-of-range", Severity.WARNING, Stage.CONFIG, default=False,
      requires=Requirement.TRAIN_CONFIG)  # fmt: skip
def learning_rate_out_of_range(facts: ConfigFacts) -> Iterator[Defect]:
    """The learning rate should lie between 5e-7 and 5e-6; of an adapter (LoRA), up to 1e-4.

    KTO needs far less than supervised training: a higher rate drives the policy away from its reference within a few
    steps. At `beta: 0.1` most models take at most 1e-6.

    Bad:  `kto: {learning_rate: 2e-5}`
    Good: `kto: {learning_rate: 1e-6}`
    """
    assert facts.plan is not None
    yield from _defects(facts.plan, facts.plan.unusual_rate())


def _defects(plan: TrainPlan, problems: Iterable[Problem]) -> Iterator[Defect]:
    for problem in sorted(problems, key=lambda problem: _line(plan, problem.key) or 0):
        yield Defect(
            problem.message + (f"; {problem.hint}" if problem.hint else ""),
            pointer="".join(f"/{part}" for part in problem.key.split(".")),
            path=plan.path,
            line=_line(plan, problem.key),
            data=(("key", problem.key),),
        )


def _place(defect: Defect) -> int:
    return defect.line or 0


def _line(plan: TrainPlan, key: str) -> int | None:
    """Where the key stands, or what it is in."""
    while key:
        if key in plan.lines:
            return plan.lines[key]
        key = key.rpartition(".")[0]
    return None


def _manifest(plan: TrainPlan) -> Manifest | None:
    """The manifest of the config's cache; None where it is not made yet."""
    from kto_data.manifest import has_manifest, read_manifest  # and with it pydantic

    return read_manifest(plan.cache) if plan.cache is not None and has_manifest(plan.cache) else None


def _other_model(plan: TrainPlan, manifest: Manifest) -> Iterator[Defect]:
    if plan.model is None:
        return
    from kto_data.processor import load_processor

    try:
        processor = load_processor(plan.model, trust_remote_code=plan.trust_remote_code)
    except ModelError as error:
        for defect in _defects(plan, [Problem("model", f"the cache is not compared with its model: {error.what}")]):
            yield replace(defect, severity=Severity.WARNING)
        return
    yield from _defects(plan, (replace(other, key="cache") for other in cache_mismatches(manifest, processor)))


def _other_budget(facts: ConfigFacts, manifest: Manifest) -> Iterator[Problem]:
    for name, given, then in (
        ("image_max_pixels", facts.budget.max_pixels, manifest.image_max_pixels),
        ("image_min_pixels", facts.budget.min_pixels, manifest.image_min_pixels),
    ):
        if given is not None and given != then:
            was = f"{name} {then:,}" if then else f"no {name}"
            yield Problem("cache", f"the cache was made with {was}, and given is {given:,}")
