"""What one process gives to the others; with two of ``accelerate launch``, for which this file is what they run."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from sharpen.evaluation import processes
from sharpen.evaluation.beir import Document, Run
from sharpen.evaluation.processes import SharedRows, end_processes, from_main, on_main, process_state
from sharpen.evaluation.retrievers.dense import Dense

WORDS = [(a, b) for a in ("ice", "salt", "bread") for b in ("rivers", "boats", "tea", "the days of a long year")]
CORPUS = {str(n): Document(str(n), f"{first} and {second}") for n, (first, second) in enumerate(WORDS)}


def test_a_single_process_gives_to_itself():
    assert from_main({"a": 1}) == {"a": 1} and on_main(lambda: [2]) == [2]
    with pytest.raises(ZeroDivisionError):
        on_main(lambda: 1 / 0)


def test_what_the_first_process_computes_all_have_and_its_error_is_raised_by_all(tmp_path: Path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--multi_gpu"]
    done = subprocess.run(
        [*launch, "--main_process_port", "0", __file__, tmp_path],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / str(process)).read_text() for process in range(2)] == ["0, once from 0, no such file"] * 2
    assert (tmp_path / "calls").read_text() == "0"
    found = [json.loads((tmp_path / f"{process}.json").read_text()) for process in range(2)]
    assert found[0] == found[1]  # each has searched with a part of the queries
    for shared, alone in zip(found[0], searches(Dense(CORPUS, "packaged:tiny-bert", precision="float32")), strict=True):
        assert [list(ranked) for ranked in shared.values()] == [list(ranked) for ranked in alone.values()]
        assert all(shared[q] == pytest.approx(alone[q], abs=1e-6) for q in alone)
    assert [(tmp_path / f"{process}.rows").read_text() for process in range(2)] == ["5 rows, 7.0 here, mapped"] * 2
    assert not list(tmp_path.glob("*.shared"))


@pytest.mark.parametrize("said", [{}, {"OMP_NUM_THREADS": "1"}])
def test_one_thread_of_a_launcher_becomes_the_cores_unless_the_user_said_so(said: dict[str, str]):
    # the workers of these tests have one core each
    child = "import os, torch, sharpen.evaluation.processes as p; os.sched_getaffinity = lambda _: range(8); "
    child += "p._share_cores(2, True); "
    child += "print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'])"
    launcher = "import os, subprocess, sys; os.environ['OMP_NUM_THREADS'] = '1'; subprocess.run([sys.executable, '-c', "
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | said
    done = subprocess.run(
        [sys.executable, "-c", f'{launcher}"{child}"])'], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == (["1", "1"] if said else ["4", "4"]), done.stderr
    assert ("accelerate launch has set one thread" in done.stderr) != bool(said)


def searches(index: Dense) -> list[Run]:
    """With fewer queries than processes, and with more."""
    queries = {f"q{n}": f"what of {word}" for n, word in enumerate(("ice", "salt", "rivers", "bread", "boats"))}
    return [index.search({"q0": queries["q0"]}, 3), index.search(queries, 4), index.search(queries, 100)]


def share(path: Path, number: int) -> None:
    """What one process writes into its rows all have, and what it writes later, it alone has."""
    shared = SharedRows((5, 2))
    rows = np.arange(5)[number::2]
    shared.values[rows] = rows[:, None]
    values = shared.exchange(rows)
    mapped = "mapped" if isinstance(values.base, np.memmap) else "sent"
    values[0, 0] += 7
    process_state().wait_for_everyone()
    path.write_text(f"{np.flatnonzero(values[:, 1] == np.arange(5)).size} rows, {values[0, 0]} here, {mapped}")


def main(folder: str) -> None:
    number = process_state().process_index

    def once() -> str:
        with (Path(folder) / "calls").open("a") as file:
            file.write(str(number))
        return f"once from {number}"

    def fail() -> None:
        raise FileNotFoundError("no such file")

    values = [str(from_main(number)), on_main(once)]
    try:
        on_main(fail)
    except FileNotFoundError as error:
        values.append(str(error))
    (Path(folder) / str(number)).write_text(", ".join(values))
    processes.SHARED_FROM = 0
    tempfile.tempdir = folder
    found = searches(Dense(CORPUS, "packaged:tiny-bert", precision="float32"))
    (Path(folder) / f"{number}.json").write_text(json.dumps(found))
    share(Path(folder) / f"{number}.rows", number)
    end_processes()


if __name__ == "__main__":
    main(*sys.argv[1:])
