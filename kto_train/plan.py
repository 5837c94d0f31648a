"""What a run will be, worked out and checked before a weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from kto_data import __version__
from kto_data.balance import AdmissibleWeights
from kto_data.errors import ConfigError
from kto_data.manifest import read_manifest
from kto_train import checks
from kto_train.config import TrainConfig
from kto_train.libraries import quiet_libraries

if TYPE_CHECKING:
    from trl import KTOConfig

    from kto_data.processor import Processor
    from kto_train.dataset import Cache
    from kto_train.groups import Groups

_FEW_STEPS = 100
"""Up to this many steps each one is logged; in longer runs every tenth, as TRL does."""
_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is known of a run before the weights are read."""

    config: TrainConfig
    cache: Cache
    processor: Processor
    args: KTOConfig
    groups: Groups
    eval_groups: Groups | None  # None where nothing is evaluated
    balance: AdmissibleWeights
    num_steps: int
    warnings: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """The plan as a person reads it."""
        groups, args, balance = self.groups, self.args, self.balance
        rows = len(groups.order)
        yield f"model      {self.config.model}, {'LoRA' if self.config.lora is not None else 'all weights'}"
        yield f"cache      {self.config.cache}: {rows:,} rows, {balance.num_desirable:,} desirable"
        sizes = f"{groups.smallest}" if groups.smallest == groups.largest else f"{groups.smallest} to {groups.largest}"
        random = f" ({groups.random_padding_share:.0%} in random groups)" if self.config.group_by_length else ""
        yield f"groups     {len(groups):,} of {sizes} rows, {groups.padding_share:.0%} padding{random}"
        accumulated = args.gradient_accumulation_steps * args.world_size
        yield f"steps      {self.num_steps:,}, of {accumulated} group{'s' if accumulated > 1 else ''} each"
        b = "undefined" if balance.balance is None else f"{balance.balance:.3g}"
        yield f"weights    desirable {balance.desirable_weight:g}, undesirable {balance.undesirable_weight:g}: b = {b}"
        yield f"reference  {self.config.reference}"
        if groups.num_self_pairs:
            yield f"KTO406     {groups.num_self_pairs:,} rows have a KL partner with a completion equal to their own"
        if groups.num_cut:
            yield f"KL cuts    {groups.num_cut:,} KL sequences lose the tail of the partner's completion"
        for warning in self.warnings:
            yield f"warning: {warning}"

    def about(self) -> dict[str, Any]:
        """The plan as it is kept with a run, for people."""
        groups, balance, manifest = self.groups, self.balance, self.cache.manifest
        split = manifest.splits["train"]
        return {
            "ktodata": __version__,
            "versions": {name: version(name) for name in _PACKAGES},
            "config": self.config.model_dump(mode="json"),
            "data": {
                "cache": self.config.cache,
                "fingerprint": manifest.fingerprint,
                "rows": len(groups.order),
                "desirable": balance.num_desirable,
                "undesirable": balance.num_undesirable,
                "desirable weight": balance.desirable_weight,
                "undesirable weight": balance.undesirable_weight,
                "balance": balance.balance,
                "tokens": split.num_tokens,
                "images": split.num_images,
                "inputs": [f"{file.path}, {file.rows:,} rows, SHA-256 {file.sha256}" for file in manifest.inputs],
            },
            "steps": self.num_steps,
            "groups": {
                "number": len(groups),
                "smallest": groups.smallest,
                "largest": groups.largest,
                "self_pairs": groups.num_self_pairs,
                "cut_kl_sequences": groups.num_cut,
                "padding_share": round(groups.padding_share, 4),
                "random_padding_share": round(groups.random_padding_share, 4),
            },
            "warnings": list(self.warnings),
        }


def make_plan(config: TrainConfig) -> Plan:
    """Check everything and work out the groups, the weights and the steps; no weight is read."""
    manifest = read_manifest(config.cache)
    checks.check_output(config)
    checks.check_kto_batch(config)
    checks.check_evaluation(config, manifest)
    checks.check_strategy(config)
    with quiet_libraries():
        from kto_data.paths import TRAIN
        from kto_data.processor import load_processor
        from kto_train.arguments import check_library_fields, kto_config
        from kto_train.dataset import eval_groups_of, load_cache, read_rows
        from kto_train.groups import make_groups
        from kto_train.strategy import quantization_config
        from kto_train.trials import try_settings, unused_settings

        check_library_fields(config)
        quantization_config(config)
        cache = load_cache(config.cache, config.image_root)
        processor = load_processor(config.model, trust_remote_code=config.trust_remote_code)
        checks.check_cache_and_model(manifest, processor)
        checks.check_weights_are_there(config.model)
        rows = read_rows(cache[TRAIN])
        num_desirable = int(rows.label.sum())
        balance = checks.chosen_weights(config.weights, num_desirable, len(rows) - num_desirable)
        args = kto_config(config, balance, has_images=processor.has_images)
        checks.check_trackers(args.report_to)
        groups = make_groups(rows, args, manifest.max_length, by_length=config.group_by_length)
        num_steps = _num_steps(args, groups)
        try_settings(args, num_steps)
        _check_architecture(config)
    if "logging_steps" not in config.kto and num_steps <= _FEW_STEPS:
        args.logging_steps = 1
    return Plan(
        config=config,
        cache=cache,
        processor=processor,
        args=args,
        groups=groups,
        eval_groups=eval_groups_of(cache, args, by_length=config.group_by_length),
        balance=balance,
        num_steps=num_steps,
        warnings=(*checks.warnings_of(config, args, balance, num_steps), *unused_settings(args)),
    )


def _check_architecture(config: TrainConfig) -> None:
    """Raises `ConfigError` for a pattern of `freeze` that is found in no name of a weight, and `ModelError` for a model
    that TRL cannot train.

    The trainer looks again, for what cannot be built here, and by then the reference is computed.
    """
    from transformers import AutoConfig

    from kto_train.strategy import freeze_weights, lora_config

    try:
        from kto_train.footprint import without_weights

        architecture = AutoConfig.from_pretrained(config.model, trust_remote_code=config.trust_remote_code)
        model = without_weights(architecture, lora_config(config))
    except ConfigError:
        raise
    except Exception:  # a look ahead: what is wrong the trainer tells, and what cannot be built here it may build
        return
    checks.check_backbone(model)
    freeze_weights(model, config.freeze)


def _num_steps(args: KTOConfig, groups: Groups) -> int:
    if args.max_steps > 0:
        return int(args.max_steps)
    per_epoch = -(-len(groups) // args.world_size // args.gradient_accumulation_steps)
    return int(-(-per_epoch * args.num_train_epochs // 1))
