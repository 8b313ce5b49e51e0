"""Nothing here is collected where the optional folder ``training/fast_cpu`` or numba is missing."""

import importlib.util

_needed = ("numba", "sharpen.training.fast_cpu.kernels")


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


collect_ignore_glob = [] if all(map(_is_there, _needed)) else ["test_*.py"]
