"""What is imported on first use is the same module, later; the garbage collector is left as it was found."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from kto_data.startup import OBJECTS_OF_PYTHON, import_on_first_use, less_garbage_collection, no_garbage_collection

NAME = "imported_later"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that imports itself from within, as large ones do, and notes that it was run."""
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "__init__.py").write_text(f"import {NAME}.part\nnumber = 7\nopen(__file__ + '.log', 'a').write('run ')\n")
    (folder / "part.py").write_text(f"import {NAME}\nword = 'yes'\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


def runs(package: Path) -> int:
    log = package / "__init__.py.log"
    return log.read_text().count("run") if log.exists() else 0


def test_a_package_that_is_imported_on_first_use_waits_for_it(package: Path) -> None:
    import_on_first_use(NAME)
    module = import_module(NAME)
    assert import_module(NAME) is module
    assert find_spec(NAME) is module.__spec__
    assert runs(package) == 0
    assert module.number == 7
    assert module.part.word == "yes"
    assert import_module(NAME) is module
    assert runs(package) == 1


def test_a_part_of_it_is_a_use(package: Path) -> None:
    import_on_first_use(NAME)
    assert import_module(f"{NAME}.part").word == "yes"
    assert runs(package) == 1


def test_a_package_that_cannot_be_imported_says_so_at_each_use(package: Path) -> None:
    (package / "__init__.py").write_text("import there_is_no_such_module\n")
    import_on_first_use(NAME)
    module = import_module(NAME)
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        module.number  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        import_module(NAME)


def test_a_package_that_is_not_there_stays_so() -> None:
    import_on_first_use("there_is_no_such_module")
    assert find_spec("there_is_no_such_module") is None


def test_a_package_that_is_imported_already_stays_as_it_is(package: Path) -> None:
    module = import_module(NAME)
    import_on_first_use(NAME)
    assert import_module(NAME) is module
    assert runs(package) == 1


@no_garbage_collection()
def fail_without_collector() -> None:
    assert not gc.isenabled()
    raise ZeroDivisionError


def test_the_collector_works_again_whatever_happens() -> None:
    with pytest.raises(ZeroDivisionError):
        fail_without_collector()
    assert gc.isenabled()
    assert gc.get_freeze_count() < OBJECTS_OF_PYTHON


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_collector_that_does_less_for_a_while_does_all_again_afterwards() -> None:
    thresholds = gc.get_threshold()
    with pytest.raises(ZeroDivisionError):
        fail_while_it_does_less(thresholds[0])
    assert gc.get_freeze_count() < OBJECTS_OF_PYTHON
    assert gc.get_threshold() == thresholds


def fail_while_it_does_less(usual: int) -> None:
    with less_garbage_collection():
        assert gc.get_freeze_count() > OBJECTS_OF_PYTHON
        assert gc.get_threshold()[0] > usual
        raise ZeroDivisionError


def test_what_python_has_frozen_for_itself_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "get_freeze_count", lambda: 375)  # that of a Python 3.12 that has just started
    usual = gc.get_threshold()[0]
    with less_garbage_collection():
        assert gc.get_threshold()[0] > usual


def test_what_somebody_else_has_frozen_stays_so() -> None:
    gc.freeze()
    try:
        with less_garbage_collection():
            pass
        assert gc.get_freeze_count() > OBJECTS_OF_PYTHON
    finally:
        gc.unfreeze()
