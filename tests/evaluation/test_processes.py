"""What one process gives to the others; with two of ``accelerate launch``, for which this file is what they run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sharpen.evaluation.processes import end_processes, from_main, on_main, process_state


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
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / str(process)).read_text() for process in range(2)] == ["0, once from 0, no such file"] * 2
    assert (tmp_path / "calls").read_text() == "0"


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
    end_processes()


if __name__ == "__main__":
    main(*sys.argv[1:])
