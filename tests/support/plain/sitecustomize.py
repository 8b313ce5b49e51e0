"""On the path, this hides what is optional: numba, OpenVINO, and the folder training/fast_cpu."""

import sys
from importlib.abc import MetaPathFinder

HIDDEN = ("numba", "llvmlite", "openvino", "sharpen.training.fast_cpu")


class _Hide(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(name == hidden or name.startswith(f"{hidden}.") for hidden in HIDDEN):
            raise ModuleNotFoundError(f"No module named {name!r} (hidden)", name=name)
        return None


sys.meta_path.insert(0, _Hide())
