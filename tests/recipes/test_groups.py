"""What a run says of groups of documents and of live queries."""

from __future__ import annotations

import json

from tests.processes import sharpen


def test_the_report_says_who_is_covered_and_what_nothing_answers(plain):
    report = (plain / "report.md").read_text()
    section = report.partition("## Groups of documents")[2].partition("\n## ")[0]
    assert "| all | 12 |" in section and "Of 6 queries, 0 have no relevant document among the first 100" in section
    metrics = json.loads((plain / "metrics.json").read_text())
    assert metrics["unanswered"] == 0 and metrics["groups"] == {}  # six queries are too few for a group


def test_a_warning_of_a_group_is_shown_with_the_verdict(plain, tmp_path):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(plain, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["delta"]["ndcg@10"] |= {"value": 0.1}
    lost = metrics | {"delta": {"ndcg@10": metrics["delta"]["ndcg@10"] | {"interval": [-0.3, -0.1], "p": 0.001}}}
    metrics["groups"] = {
        "language: German": {k: lost[k] for k in metrics if k in ("primary", "verdict", "queries")}
        | {key: {"ndcg@10": lost[key]["ndcg@10"]} for key in ("before", "after", "delta")}
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    shown = sharpen("show", str(folder), cwd=tmp_path)
    assert shown.returncode == 0 and "A group lost while the mean gained: language: German" in shown.stdout


def test_monitor_writes_figures_and_no_query(plain, tmp_path):
    queries = [json.dumps({"text": f"how do I whistle {n}"}) for n in range(30)]
    (tmp_path / "log.jsonl").write_text("\n".join([*queries, *queries[:4]]))
    result = sharpen("monitor", str(plain), "--queries", "log.jsonl", "--out", "out.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["live"] == 30 and "whistle" not in (tmp_path / "out.json").read_text()
    assert found["verdict"] in ("drifted", "too few queries") and "30 live queries (4 repeats" in result.stdout
    refused = sharpen("monitor", str(tmp_path), "--queries", "log.jsonl", cwd=tmp_path)
    assert refused.returncode == 2 and "no finished run there" in refused.stderr
