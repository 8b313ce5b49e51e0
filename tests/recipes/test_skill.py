"""SKILL.md, followed to the letter."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import TOPICS
from tests.processes import sharpen
from tests.support.readme import ROOT, blocks

SKILL = ROOT / "SKILL.md"


@pytest.mark.slow
def test_an_agent_that_does_what_it_says_gets_to_a_verdict(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    for name, (title, text) in TOPICS.items():
        (tmp_path / "docs" / f"{name}.md").write_text(f"# {title}\n\n{text}\n")
    rows = {"bread": "how long does dough rest", "bicycle": "flat tire what now", "coffee": "beans per litre"}
    lines = ["question,document", *(f"{question},{name}.md" for name, question in rows.items())]
    (tmp_path / "questions.csv").write_text("\n".join(lines) + "\n")
    said = {}
    for line in "".join(blocks("sh", SKILL)).splitlines():
        program, *arguments = shlex.split(line)
        assert program == "sharpen"
        result = sharpen(*arguments, cwd=tmp_path)
        assert result.returncode == 0, f"{line}\n{result.stderr}\n{result.stdout}"
        said[arguments[0]] = result.stdout
    verdict = json.loads((tmp_path / "runs" / "docs" / "metrics.json").read_text())["verdict"]
    assert verdict in ("better", "worse", "not distinguishable")
    assert verdict in said["run"] and verdict in said["show"] and "would push" in said["push"]
    assert "12 documents" in said["init"] and "drift" in said["monitor"].lower()


def test_its_head_is_what_agents_look_for():
    head = SKILL.read_text(encoding="utf-8").split("---")[1]
    assert re.search(r"^name: sharpen$", head, re.M) and re.search(r"^description: .{100,1000}$", head, re.M)
    assert len(SKILL.read_text(encoding="utf-8").splitlines()) <= 90


def test_it_knows_every_verdict():
    text = SKILL.read_text(encoding="utf-8")
    assert all(f"**{verdict}**" in text for verdict in ("better", "worse", "not distinguishable"))
