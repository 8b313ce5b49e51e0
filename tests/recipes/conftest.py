import pytest

from tests.conftest import make_dataset, make_recipe
from tests.processes import sharpen


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """One finished run that several tests look at."""
    tmp_path = tmp_path_factory.mktemp("run")
    recipe_file = make_recipe(tmp_path, make_dataset(tmp_path / "topics"))
    result = sharpen("run", str(recipe_file), cwd=tmp_path, process=True)
    assert result.returncode == 0, result.stderr + result.stdout
    return tmp_path, recipe_file, result
