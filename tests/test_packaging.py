"""What is installed: every package of the four folders, under the name sharpen alone."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("evaluation", "recipes", "sdg", "training")


def test_every_package_is_listed_and_typed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {
        ".".join(("sharpen", *path.parent.relative_to(ROOT).parts))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(settings["packages"]) == packages
    assert settings["package-dir"] == {f"sharpen.{folder}": folder for folder in FOLDERS}
    assert all((ROOT / folder / "py.typed").is_file() for folder in FOLDERS)


def test_no_file_is_longer_than_400_lines():
    long = {
        str(path.relative_to(ROOT)): n
        for folder in (*FOLDERS, "scripts")
        for path in (ROOT / folder).rglob("*.py")
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long
