"""The READMEs' commands, flags and links are there."""

from __future__ import annotations

import re

import pytest
import typer.main

from sharpen.recipes.cli import app
from tests.support.readme import PAGES, README, ROOT

COMMAND = re.compile(r"\bsharpen ([a-z]+)((?: [^`|\n]*)?)")


def _commands() -> dict[str, set[str]]:
    """Command to its flags."""
    group = typer.main.get_command(app)
    return {
        name: {flag for parameter in command.params for flag in parameter.opts} | {"--help"}
        for name, command in group.commands.items()
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_and_flag_is_there(page):
    known = _commands()
    code = re.findall(r"`([^`\n]+)`", page.read_text()) + re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    for text in code:
        for name, rest in COMMAND.findall(text):
            assert name in known, f"sharpen {name}"
            assert set(re.findall(r"(?<!\S)(--[a-z-]+)", rest)) <= known[name], f"sharpen {name}{rest}"


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "recipes" / "results").glob("*.md"))], ids=lambda p: p.stem)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 160


@pytest.mark.parametrize("name", ["quickstart.sh", "test.sh", "reproduce.sh"])
def test_every_script_that_is_named_is_there(name):
    assert (ROOT / "scripts" / name).is_file()
