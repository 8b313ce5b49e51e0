"""What the READMEs promise: their blocks of code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [ROOT / "SKILL.md", *sorted(p for p in ROOT.rglob("README.md") if not {".venv", "runs"} & set(p.parts))]


def blocks(language: str, path: Path = README) -> list[str]:
    """The blocks of code in a language, in their order."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
