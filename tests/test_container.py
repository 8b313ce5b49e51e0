"""The container file, as far as it can be checked without building it."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import tomllib

from packaging.specifiers import SpecifierSet

from sharpen.recipes.load import find_recipe
from tests.support.readme import ROOT

TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KNOWN = {"FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}


def _instructions() -> list[tuple[str, str]]:
    lines = [line for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


def test_it_consists_of_instructions_and_names_its_base_by_version():
    instructions = _instructions()
    assert {name for name, _ in instructions} <= KNOWN and instructions[0][0] == "FROM"
    version = re.fullmatch(r"docker\.io/library/python:(\d+\.\d+)-slim-\w+", instructions[0][1])
    assert version and version[1] in SpecifierSet(PROJECT["requires-python"])
    assert [value for name, value in instructions if name == "USER"] == ["sharpen"]
    (entry,) = (json.loads(value) for name, value in instructions if name == "ENTRYPOINT")
    assert entry[0] in PROJECT["scripts"]


def test_it_installs_from_wheels_and_constraints_alone():
    (run,) = (value for name, value in _instructions() if name == "RUN")
    pip, *others = (shlex.split(command) for command in run.split("&&"))
    assert pip[:4] == ["python", "-m", "pip", "install"] and "--no-index" in pip
    assert pip[pip.index("--find-links") + 1] == "/opt/sharpen/wheels" and "-c" in pip
    assert [command[0] for command in others] == ["rm", "useradd"]
    named = [
        re.fullmatch(r"(?:\.|sharpen)\[([\w,-]+)\]", word) for word in (pip[-1], re.search(r"'(\.\[.*?\])'", TEXT)[1])
    ]
    assert named[0][1] == named[1][1] and set(named[0][1].split(",")) <= set(PROJECT["optional-dependencies"])


def test_what_it_copies_is_let_through_and_there():
    rules = (ROOT / ".containerignore").read_text().split()
    for name, value in _instructions():
        if name == "COPY":
            source = value.split()[0]
            assert f"!{source}" in rules and (source == "wheels" or (ROOT / source).exists())
    assert rules[0] == "*" and not any(fnmatch.fnmatch("!README.md", rule) for rule in rules[1:])


def test_the_recipe_of_its_example_is_there():
    assert find_recipe(re.search(r"sharpen run (\w+)", TEXT)[1]).is_file()
