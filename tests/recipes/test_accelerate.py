"""The configurations of accelerate that come with sharpen, and what of such configurations is refused."""

import os

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from sharpen.evaluation.files import InputError
from sharpen.recipes.load import FOLDER, load_recipe, recipe_files
from sharpen.recipes.stages import check_recipe
from sharpen.training.launch import check_launch

CONFIGURATIONS = {
    "one_gpu": (1, False, False),
    "eight_gpus": (8, True, False),
    "eight_gpus_fsdp": (8, False, True),
    "two_machines": (16, True, False),
    "cpu": (2, True, False),
}
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}


def _arguments(name: str, *more: str):
    path = FOLDER / "accelerate" / f"{name}.yaml"
    arguments = ["--config_file", str(path), *more, "-m", "sharpen.recipes", "run", "RECIPE"]
    return _validate_launch_command(launch_command_parser().parse_args(arguments))[0]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_accelerate_takes_each_configuration(name, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    arguments = _arguments(name)
    assert (arguments.num_processes, arguments.multi_gpu, arguments.use_fsdp) == CONFIGURATIONS[name]
    assert arguments.mixed_precision == "no" and not arguments.cpu and not arguments.use_deepspeed
    if arguments.use_fsdp or arguments.multi_gpu:
        environment = prepare_multi_gpu_env(arguments)
        for key in ("ACCELERATE_USE_FSDP", "FSDP_VERSION"):
            monkeypatch.setenv(key, environment.get(key, ""))
        check_launch(["training"])
        assert environment.get("FSDP_VERSION") == ("2" if arguments.use_fsdp else None)
    if name == "two_machines":
        second = _arguments(name, "--machine_rank", "1", "--main_process_ip", "10.0.0.7")
        assert (second.num_machines, second.machine_rank, second.main_process_ip) == (2, 1, "10.0.0.7")


def test_all_are_listed_here_open_as_recipes_do_and_are_no_recipes():
    paths = sorted((FOLDER / "accelerate").iterdir())
    assert {path.stem for path in paths} == set(CONFIGURATIONS)
    for path in paths:
        opening = path.read_text(encoding="utf-8").partition("compute_environment")[0]
        for part in ("What it does: ", "What it needs: ", "How to run it", "How to change it: "):
            assert part in opening, path
        assert f"--config_file recipes/accelerate/{path.name}" in opening
    assert not set(paths) & set(recipe_files())


@pytest.mark.parametrize(
    ("environment", "parts", "said"),
    [
        (
            {"ACCELERATE_USE_FSDP": "true"},
            ["training"],
            "fsdp_version is 1, .* take fsdp_version: 2, as in recipes/acc",
        ),
        (FSDP, ["training", "reranker"], "reranker: FSDP is for the retriever's training, .*eight_gpus.yaml"),
        (FSDP, ["generative"], "generative: FSDP is for the retriever's training"),
        (DEEPSPEED, ["training"], "DeepSpeed is asked for and not installed; pip install deepspeed, or launch with"),
    ],
)
def test_what_training_cannot_do_is_refused(environment, parts, said, monkeypatch):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(InputError, match=said):
        check_launch(parts)


@pytest.mark.parametrize("stage", ["3", "file", 2])
def test_deepspeed_is_passed_on_as_untested_unless_it_shares_out_weights(stage, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    if stage == "file":
        (tmp_path / "deepspeed.json").write_text('{"zero_optimization": {"stage": 3}}')
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "deepspeed.json"))
    else:
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", str(stage))
    if stage == 2:
        with pytest.warns(UserWarning, match="DeepSpeed is passed on to accelerate and is not tested here"):
            check_launch(["training"])
    else:
        with pytest.raises(InputError, match="with DeepSpeed's ZeRO 3 no process has the weights"):
            check_launch(["training"])


def test_a_recipe_is_refused_before_anything_is_paid_for(recipe_file, monkeypatch):
    for key, value in FSDP.items():
        monkeypatch.setenv(key, value)
    check_recipe(load_recipe(str(recipe_file), []).recipe)
    reranker = ["reranker.base=packaged:tiny-bert"]
    with pytest.raises(InputError, match="reranker: FSDP is for the retriever's training"):
        check_recipe(load_recipe(str(recipe_file), reranker).recipe)
