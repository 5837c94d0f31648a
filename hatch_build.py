"""Compiles `kto_data/scan.c` into the wheel. It saves time and nothing else: a wheel is built without it, and runs on
every platform, where there is no C compiler, or where `HATCH_BUILD_NO_HOOKS=true` asks for that."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.bdist_wheel import get_platform

_TAG = "cp311-abi3"  # the Python of `Py_LIMITED_API` in scan.c, and all that follow
_ARGUMENTS = ["-std=gnu11", "-O3"]


class CompiledScan(BuildHookInterface[Any]):
    """What hatchling runs before it packs a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say so in the name of a wheel that holds it. An editable install has it beside its source."""
        self._scratch = tempfile.TemporaryDirectory()
        built = self._compile(Path(self._scratch.name))
        beside_source = Path(self.root, "kto_data", built.name)
        if version == "editable":
            beside_source.unlink(missing_ok=True)  # of an older source
        if not built.exists():
            self.app.display_warning("kto_data/scan.c could not be compiled: `ktodata` takes longer without it")
        elif version == "editable":
            shutil.copy(built, beside_source)
        else:
            build_data["pure_python"] = False
            build_data["tag"] = f"{_TAG}-{get_platform(self._scratch.name)}"
            build_data["force_include"][str(built)] = f"kto_data/{built.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was made on the way."""
        self._scratch.cleanup()

    def _compile(self, folder: Path) -> Path:
        """Where below `folder` the module lies, if it could be compiled."""
        sources = [str(Path(self.root, "kto_data/scan.c"))]
        module = Extension("kto_data._scan", sources, extra_compile_args=_ARGUMENTS, optional=True, py_limited_api=True)
        command = Distribution({"ext_modules": [module]}).get_command_obj("build_ext")
        command.build_lib = command.build_temp = str(folder)
        command.ensure_finalized()
        command.run()
        (built,) = command.get_outputs()
        return Path(built)
