"""KTO training from a token cache: a thin plugin on TRL's `KTOTrainer`.

    from kto_train import CachedKTOTrainer, load_cache

torch and trl load when one of the names is asked for, not before: `ktodata --help` passes through this package.
Where their versions are not supported, that raises `ConfigError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kto_train.collate import CachedCollator
    from kto_train.dataset import Cache, load_cache
    from kto_train.trainer import CachedKTOTrainer

__all__ = ["Cache", "CachedCollator", "CachedKTOTrainer", "load_cache"]

_HOMES = {
    "Cache": "dataset",
    "CachedCollator": "collate",
    "CachedKTOTrainer": "trainer",
    "load_cache": "dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from kto_train.checks import check_installed

    check_installed()
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
