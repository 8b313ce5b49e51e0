"""Nothing here is collected where the optional folder ``training/fast_cpu`` or numba is missing."""

try:
    from sharpen.training.fast_cpu.kernels import HAS_NUMBA
except ModuleNotFoundError:
    HAS_NUMBA = False

collect_ignore_glob = [] if HAS_NUMBA else ["test_*.py"]
