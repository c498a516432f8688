"""Parts of a large library, without what its packages import beside them.

To import a module Python first executes the packages that it is in. Some libraries' packages import all they
have there, which may be a thousand modules for the two that are wanted: seconds of a start, and most of the
memory of a small process. Source: https://docs.python.org/3/reference/import.html#packages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from types import ModuleType


@contextmanager
def bare_packages(*names: str) -> Iterator[None]:
    """Within it, importing from these packages finds their modules and executes nothing of their own.

    They are one library's, its outermost package first. Whoever imports it afterwards has all of it, as
    always; and if all of it is there already, nothing is different. Raises `ImportError`.
    """
    library = names[0]
    if library in sys.modules:
        yield
        return
    try:
        for name in names:
            parent = sys.modules.get(name.rpartition(".")[0])
            spec = PathFinder.find_spec(name, None if parent is None else parent.__path__)
            if spec is None or spec.submodule_search_locations is None:
                raise ModuleNotFoundError(f"No package named {name!r}", name=name)
            package = ModuleType(name)
            package.__path__ = list(spec.submodule_search_locations)
            sys.modules[name] = package
            if parent is not None:
                setattr(parent, name.rpartition(".")[2], package)
        yield
    finally:
        for name in [name for name in sys.modules if name == library or name.startswith(f"{library}.")]:
            del sys.modules[name]
