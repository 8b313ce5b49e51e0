"""The READMEs' commands, flags and links are there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

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


def _examples(help_text: str) -> list[str]:
    """The command lines behind "Example:" in a command's help."""
    text = " ".join(help_text.split())
    return re.findall(r"sharpen [a-z-]+(?:(?!, then sharpen).)*", text.partition("Example: ")[2])


@pytest.mark.parametrize("name", sorted(_commands()))
def test_every_commands_help_has_an_example_that_it_takes(name):
    command = typer.main.get_command(app).commands[name]
    examples = _examples(command.help or "")
    assert examples, f"sharpen {name} --help has no line that begins with Example:"
    for example in examples:
        _, called, *arguments = shlex.split(example)
        assert called == name
        command.make_context(name, list(arguments), resilient_parsing=False)


@pytest.mark.parametrize(
    ("words", "found"), [("sharpen eva", "evaluate"), ("sharpen push --dr", "--dry-run"), ("sharpen in", "init")]
)
def test_the_shell_completes_commands_and_options(words, found):
    code = "import sys; sys.argv = ['sharpen']; from sharpen.recipes.cli import main; main()"
    variables = {"_SHARPEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0 and found in result.stdout.split(), result.stderr


def test_completion_costs_no_heavy_import():
    heavy = "{'torch', 'transformers', 'datasets', 'pydantic'}"
    code = f"import sys; import sharpen.recipes.cli; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr


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
