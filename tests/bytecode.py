"""Libraries are imported from the bytecode they were installed with, in tests too.

While a module of ours is imported, jaxtyping's hook gives all bytecode a name of its own, that of
the libraries imported on the way too: where there is none of that name yet, they are compiled from
source. That took the first training of a process 8 of its 15 seconds.
"""

from importlib.util import cache_from_source, find_spec
from pathlib import Path

from jaxtyping import _import_hook

PACKAGE = str(Path(find_spec("worldmodel").origin).parent)
name_where_checked = _import_hook._optimized_cache_from_source


def name_of_bytecode(checker: str, /, path: str, debug_override: bool | None = None) -> str:
    """Where the bytecode of a source file stands; that of checked shapes for ours alone."""
    if str(path).startswith(PACKAGE):
        return name_where_checked(checker, path, debug_override)
    return cache_from_source(path, debug_override)


_import_hook._optimized_cache_from_source = name_of_bytecode
