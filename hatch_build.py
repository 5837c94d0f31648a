"""Compiles `kto_data/scan.c` into the wheel. It saves time and nothing else: a wheel is built without it, and runs on
every platform, where there is no C compiler, or where `HATCH_BUILD_NO_HOOKS=true` asks for that."""

from __future__ import annotations

import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension

_TAG = "cp311-abi3"  # the Python of `Py_LIMITED_API` in scan.c, and all that follow
_ARGUMENTS = ["-std=gnu11", "-O3"]


class CompiledScan(BuildHookInterface[Any]):
    """What hatchling runs before it packs a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say so in the wheel's name. In an editable install the result lies beside its source."""
        self._scratch = tempfile.TemporaryDirectory()
        is_editable = version == "editable"
        built = self._compile(Path(self.root if is_editable else self._scratch.name))
        if not built.exists():
            self.app.display_warning("kto_data/scan.c could not be compiled: `ktodata` takes longer without it")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"{_TAG}-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        if not is_editable:
            build_data["force_include"][str(built)] = f"kto_data/{built.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was made on the way."""
        self._scratch.cleanup()

    def _compile(self, folder: Path) -> Path:
        """Where below `folder` the module lies, if it could be compiled."""
        sources = [str(Path(self.root, "kto_data/scan.c"))]
        module = Extension("kto_data._scan", sources, extra_compile_args=_ARGUMENTS, optional=True, py_limited_api=True)
        command = Distribution({"ext_modules": [module]}).get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(folder), self._scratch.name
        command.ensure_finalized()
        command.run()
        (built,) = command.get_outputs()
        return Path(built)
