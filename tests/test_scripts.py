"""The programs of scripts/: each can be imported without running, and says how it is called."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

SCRIPTS = Path(__file__).parents[1] / "scripts"
PROGRAMS = sorted(path.name for path in SCRIPTS.glob("*.py"))
SUBCOMMANDS = (
    "encoding",
    "training",
    "methods",
    "mining",
    "generation",
    "generative",
    "evaluation",
    "exports",
    "corpora",
    "scale",
)


@pytest.fixture
def scripts_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python itself does for a program that it is given by its path."""
    monkeypatch.syspath_prepend(SCRIPTS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_is_imported_without_running(name: str, scripts_path: None, capsys: pytest.CaptureFixture[str]):
    app = runpy.run_path(str(SCRIPTS / name))["app"]
    assert isinstance(app, typer.Typer)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_says_how_it_is_called(name: str, scripts_path: None):
    result = CliRunner().invoke(runpy.run_path(str(SCRIPTS / name))["app"], ["--help"])
    assert result.exit_code == 0
    assert f"python scripts/{name}" in result.output
    assert "minutes" in result.output


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_benchmark_says_how_it_is_called(subcommand: str, scripts_path: None):
    app = runpy.run_path(str(SCRIPTS / "benchmark.py"))["app"]
    result = CliRunner().invoke(app, [subcommand, "--help"])
    assert result.exit_code == 0
    assert f"python scripts/benchmark.py {subcommand}" in result.output
    assert "minutes on two AVX2 cores" in result.output


def test_subcommands_are_the_files_of_benchmarks():
    modules = {path.stem for path in (SCRIPTS / "benchmarks").glob("*.py")} - {"__init__", "common"}
    assert modules == set(SUBCOMMANDS)


@pytest.mark.slow
def test_imports_inside_functions_exist():
    """What a program loads only when it runs: every name is still where it is looked for."""
    wanted = {
        (node.module, alias.name)
        for path in SCRIPTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sharpen")
        for alias in node.names
    }
    assert len(wanted) > 50
    program = "import importlib, sys\nfor line in sys.stdin.read().splitlines():\n"
    program += "    module, name = line.split()\n    module = importlib.import_module(module)\n"
    program += "    if not hasattr(module, name):\n        importlib.import_module(f'{module.__name__}.{name}')\n"
    lines = "\n".join(f"{module} {name}" for module, name in sorted(wanted))
    result = subprocess.run([sys.executable, "-c", program], input=lines, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_wrong_option_is_refused_before_anything_is_loaded():
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), "encoding", "--documents", "many"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "--documents" in result.stderr
