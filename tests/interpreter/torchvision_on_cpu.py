"""Lets torchvision be imported beside a torch it was not built for.

Package indexes carry torchvision built against CUDA torch only. Beside a CPU torch its compiled part cannot be loaded,
and `import torchvision` ends with "operator torchvision::nms does not exist". Its image transforms, all that image
processors use, are plain Python: with the missing operators declared, though not implemented, the import works.

For tests only. `install` is cheap: nothing happens until someone imports torchvision.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

APART = Path(sys.prefix) / "torchvision"
"""Where `make test` puts torchvision: in site-packages, broken as it is, it would break all of transformers."""

_MISSING_OPERATORS = ("nms", "qnms")
_kept: list[Any] = []  # a torch library undoes its declarations when it is garbage collected


class _OperatorsFirst(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        _declare_missing_operators(Path(self.path).parent)
        super().exec_module(module)


class _TorchvisionFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _OperatorsFirst(spec.loader.name, spec.loader.path)
        return spec


def _declare_missing_operators(package: Path) -> None:
    import torch
    from torch.library import Library  # where torch keeps what operators are declared with

    try:
        torch.ops.load_library(str(package / "_C.so"))
    except OSError:
        operators = Library("torchvision", "FRAGMENT")
        for name in _MISSING_OPERATORS:
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(operators)


def install() -> None:
    """Make `import torchvision` work in this interpreter, wherever it is installed."""
    if APART.is_dir() and str(APART) not in sys.path:
        sys.path.append(str(APART))
    if not any(isinstance(finder, _TorchvisionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TorchvisionFinder())
