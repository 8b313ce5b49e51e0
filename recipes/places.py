"""Names as they may leave this machine."""

from __future__ import annotations

from pathlib import Path


def without_place(name: str) -> str:
    """An absolute path by its last part, also behind the kind of a scorer; any other name as it is.

    >>> without_place("/home/anna/models/mine"), without_place("encoder:/home/anna/models/mine")
    ('mine', 'encoder:mine')
    >>> without_place("packaged:tiny-bert"), without_place("https://example.org/v1")
    ('packaged:tiny-bert', 'https://example.org/v1')
    """
    if Path(name).is_absolute():
        return Path(name).name
    kind, colon, of_kind = name.partition(":")
    is_path = Path(of_kind).is_absolute() and not of_kind.startswith("//")  # an address
    return f"{kind}{colon}{Path(of_kind).name}" if is_path else name
