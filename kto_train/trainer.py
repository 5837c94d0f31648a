"""TRL's `KTOTrainer`, fed from a cache. The loss is TRL's own code, untouched.

Each override is here for one reason, which its docstring tells. All of them together let the stock trainer train
rows that are tokenized already, with images, in KL groups, with or without a cached reference.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from datasets import Dataset, concatenate_datasets
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback
from trl import KTOConfig
from trl.models.utils import disable_gradient_checkpointing, prepare_deepspeed
from trl.trainer.utils import use_adapter

from kto_data.balance import admissible_weights
from kto_data.paths import EVAL, TRAIN
from kto_data.processor import Processor, load_processor
from kto_data.training import balance_warning
from kto_train import reference
from kto_train.checks import check_backbone, check_goes_with_groups
from kto_train.collate import CachedCollator, image_backend, source_of
from kto_train.columns import (
    KL_PREFIX,
    REF_LOGPS,
    SEQUENCE_KEYS,
    SIGNATURE_COLUMNS,
    TOKEN_TYPE_KEYS,
)
from kto_train.dataset import Cache, eval_groups_of, eval_split, make_eval_groups, read_rows
from kto_train.groups import GroupBatchSampler, Groups, Rows, make_groups, seed_of_data, worker_settings
from kto_train.reference import ReferenceStore, weights_hash
from kto_train.reference_pass import ReferencePass, Tensors
from kto_train.resumable import ResumableKTOTrainer
from kto_train.sharding import keep_names_as_read, on_device, units_for_scoring
from kto_train.strategy import freeze_weights, prepare_to_score

logger = logging.getLogger("kto_train")


class CachedKTOTrainer(ResumableKTOTrainer):
    """A `KTOTrainer` that trains from a cache of `ktodata preprocess`.

    `cache` comes from `load_cache`; its `train` split is trained, and its `eval` split is evaluated where `args` asks
    for evaluation. `args.precompute_ref_log_probs` works for images too: the values are kept under `reference_folder`
    (default: beside the cache). `args.max_length` has no effect: the cache is within its own. `groups`, and those of
    the `eval` split, are made from the cache unless given: of rows of like length, or with `group_by_length=False` of
    any. Weights whose name one of the patterns of `freeze` is found in are not trained; a pattern that is found in none
    raises `ConfigError`, as does what rows in groups cannot do: another batch size later, and left out rows. Everything
    else is as in `KTOTrainer`; `options` are its remaining arguments.
    """

    _signature_columns: list[str] | None  # transformers fills it when it first needs it
    calculate_KL: bool  # whether the loss has a KL term
    _precompute_engine: Any  # DeepSpeed's engine of the reference model, once there is one

    def __init__(
        self,
        model: str | PreTrainedModel,
        *,
        cache: Cache,
        args: KTOConfig,
        processor: Processor | None = None,
        groups: Groups | None = None,
        eval_groups: Groups | None = None,
        group_by_length: bool = True,
        reference_folder: Path | None = None,
        freeze: Iterable[str] = (),
        **options: Any,
    ) -> None:
        check_goes_with_groups(args)
        self.cache = cache
        if processor is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            processor = load_processor(name, trust_remote_code=args.trust_remote_code)
        if groups is None:
            rows = read_rows(cache[TRAIN])
            groups = make_groups(rows, args, cache.manifest.max_length, by_length=group_by_length)
            _warn_of_balance(rows, args)
        self.train_groups = groups
        self._group_by_length = group_by_length
        self._image_backend = image_backend(processor)
        # Before the reference is computed: there may be too few rows.
        self._eval_groups = eval_groups or eval_groups_of(cache, args, by_length=group_by_length)
        self._train_sampler: GroupBatchSampler | None = None
        self._store = ReferenceStore(reference_folder or cache.path / "reference")
        given = options.get("ref_model")
        self._given_reference = "" if given is None else weights_hash(given)  # before it is spread
        super().__init__(
            model=model,
            args=args,
            train_dataset=cache[TRAIN],
            eval_dataset=eval_split(cache, args),
            processing_class=processor.processing_class,
            data_collator=CachedCollator(
                processor,
                image_root=cache.image_root,
                pack_images=cache.pack_images,
                max_length=cache.manifest.max_length,
                with_kl=args.loss_type != "apo_zero_unpaired",
                pad_to_multiple_of=args.pad_to_multiple_of,
            ),
            **options,
        )
        check_backbone(self.model)
        keep_names_as_read(self.model)
        freeze_weights(self.model, freeze)
        self.add_callback(_Epochs(self))

    # -- data ---------------------------------------------------------------------------------------------------

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        """As it is: TRL would tokenize here, and the cache holds the ids already."""
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        """The cache's columns: TRL would drop all but its own."""
        if self._signature_columns is None:
            self._signature_columns = list(SIGNATURE_COLUMNS)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Groups as batches, shuffled whole by (seed, epoch): TRL takes rows in one fixed order for ever."""
        self._train_sampler = GroupBatchSampler(self.train_groups, seed_of_data(self.args))
        return self._group_dataloader(self.train_dataset, self._train_sampler)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader[Any]:
        """Groups of at least two: in a batch of one, the KL term would be the row's own reward."""
        if isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset[eval_dataset]
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._group_dataloader(dataset, GroupBatchSampler(self._groups_of(dataset, EVAL), seed=None))

    def _group_dataloader(self, dataset: Dataset, sampler: GroupBatchSampler) -> DataLoader[Any]:
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=self.data_collator, **worker_settings(self.args))
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def _groups_of(self, dataset: Dataset, name: str) -> Groups:
        if name == TRAIN:
            return self.train_groups
        if self._eval_groups is None or len(self._eval_groups.order) != len(dataset):
            max_length = self.cache.manifest.max_length
            self._eval_groups = make_eval_groups(dataset, self.args, max_length, by_length=self._group_by_length)
        return self._eval_groups

    def set_epoch(self, epoch: int) -> None:
        """Take the order of `epoch`.

        transformers and accelerate hand the epoch on to a batch sampler, but not through the two wrappers that a
        resumed run on several ranks puts around it.
        """
        if self._train_sampler is not None:
            self._train_sampler.set_epoch(epoch)

    # -- reference ----------------------------------------------------------------------------------------------

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Stored values where there are any, else computed in our groups: TRL's would pair rows by dataset order."""
        if REF_LOGPS in dataset.column_names:
            return dataset
        groups = self._groups_of(dataset, name)
        parts = self._reference_parts(name, groups)
        entry = self._store.entry(parts)
        stored = self._store.find(parts)
        if stored is not None:
            logger.warning("reference log-probabilities of %s: reused from %s", name, entry)
            return concatenate_datasets([dataset, stored], axis=1)
        stale = self._store.stale(parts)
        logger.warning(
            "reference log-probabilities of %s: computing %s rows%s",
            name,
            f"{len(dataset):,}",
            f" (those stored are {'of other ' + ', '.join(stale) if stale else 'damaged'})"
            if stale or entry.exists()
            else "",
        )
        self._compute_reference(dataset, name, groups, parts)
        return concatenate_datasets([dataset, self._store.find(parts)], axis=1)

    def _compute_reference(self, dataset: Dataset, name: str, groups: Groups, parts: reference.Parts) -> None:
        unfinished = self._store.unfinished(parts)
        was_training = self.model.training
        prepare_to_score(self.model)
        with self._placed_model() as model:
            values = ReferencePass(
                groups=groups,
                unfinished=unfinished,
                title=f"reference log-probabilities of {name}",
                batches=lambda own: self._unprepared_batches(dataset, own),
                log_probs=lambda batch: self.compute_ref_log_probs(model, batch),
                where=lambda row: source_of(dataset[row]),
                rank=self.args.process_index,
                num_ranks=self.args.world_size,
            ).run()
        self.model.train(was_training)
        if self.accelerator.is_local_main_process:  # once a machine: they need not share a disk
            self._store.save(parts, reference.as_columns(values, len(dataset), with_kl=self.calculate_KL))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_local_main_process:
            unfinished.remove()

    def _reference_parts(self, name: str, groups: Groups) -> reference.Parts:
        packing = getattr(self.model.config, "quantization_config", None)
        return {
            "cache": self.cache.manifest.fingerprint,
            "split": name,
            "weights": self._given_reference or "".join(dict.fromkeys(gather_object([weights_hash(self.model)]))),
            "batch size": groups.largest,
            "seed": seed_of_data(self.args),
            "devices": self.args.world_size,
            "groups": groups.fingerprint(),
            "dtype": f"{self.model.dtype} {self.accelerator.mixed_precision}",
            "quantization": str(packing.to_dict()) if packing is not None else "none",
            "loss": "with KL" if self.calculate_KL else "without KL",
            "padding": self.args.pad_to_multiple_of,
            "image processor": self._image_backend,
            **{name: version(name) for name in ("torch", "transformers")},
        }

    def _placed_model(self) -> contextlib.AbstractContextManager[Any]:
        """The reference as it can be run before `train` prepares the model. One that was given, and the copy that TRL
        makes for FSDP, are prepared. Else it is the model itself, which DeepSpeed has left in pieces (ZeRO-3) or not on
        its device, and gathers as an inference engine."""
        if self.ref_model is not None:
            return contextlib.nullcontext(self.ref_model)
        if self.is_fsdp_enabled:
            return on_device(self.model, self.accelerator.device)
        if not self.is_deepspeed_enabled:
            return contextlib.nullcontext(self.model)
        if self._precompute_engine is None:
            self._precompute_engine = prepare_deepspeed(self.model, self.accelerator)
        return contextlib.nullcontext(self._precompute_engine)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """With FSDP, in other units than accelerate's: see `sharding`."""
        with units_for_scoring(self.model, getattr(self.accelerator.state, "fsdp_plugin", None)):
            return super()._prepare_for_training(*args, **kwargs)

    def _unprepared_batches(self, dataset: Dataset, batches: list[list[int]]) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            **worker_settings(self.args),
            # Its own: drawing a seed from the global one would make a run that computes differ from one that reuses.
            generator=torch.Generator(),
        )

    def compute_ref_log_probs(self, model: Any, inputs: Tensors) -> tuple[torch.Tensor, torch.Tensor | None]:
        """TRL's own KL forward, twice: TRL's version of this passes no pixels to the model.

        The second time the rows' own sequences go under the names of the KL ones, so that no forward is written here.
        """
        inputs = {key: value.to(self.accelerator.device) for key, value in inputs.items()}
        own = {key: value for key, value in inputs.items() if not key.startswith(KL_PREFIX)}
        own |= {KL_PREFIX + key: inputs[key] for key in (*SEQUENCE_KEYS, *TOKEN_TYPE_KEYS) if key in inputs}
        calculates_kl = self.calculate_KL
        with (
            torch.no_grad(),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
            self._without_adapter(),
            self.accelerator.autocast(),
        ):
            try:
                self.calculate_KL = True
                log_probs = self._compute_kl_logps(model, own)
            finally:
                self.calculate_KL = calculates_kl
            return log_probs, self._compute_kl_logps(model, inputs)

    def _without_adapter(self) -> contextlib.AbstractContextManager[Any]:
        if self.ref_model is not None or not is_peft_model(self.model):
            return contextlib.nullcontext()
        model = self.accelerator.unwrap_model(self.model)
        adapter: contextlib.AbstractContextManager[Any] = use_adapter(
            model, adapter_name="ref" if "ref" in model.peft_config else None
        )
        return adapter


class _Epochs(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Tells the trainer which epoch begins."""

    def __init__(self, trainer: CachedKTOTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.set_epoch(int(state.epoch or 0))


def _warn_of_balance(rows: Rows, args: KTOConfig) -> None:
    desirable = int(rows.label.sum())
    told = balance_warning(
        admissible_weights(desirable, len(rows) - desirable, args.desirable_weight, args.undesirable_weight)
    )
    if told:
        logger.warning(told)
