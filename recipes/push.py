"""A run's model, or its pairs, on the Hugging Face Hub or another server that speaks its API."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from rich.console import Console
from ruamel.yaml import YAML

from sharpen.evaluation.files import InputError, first_line, link_or_copy, visible_files, write_text
from sharpen.recipes.places import without_place
from sharpen.recipes.yaml_text import dump_yaml

TOKEN = "HF_TOKEN"
MODEL_TEXTS = ("identifiers.jsonl",)
"""Files of a model's folder that hold words of documents."""
_EXAMPLES = ("pool", "options")
"""Keys of a recipe below which a list may be examples in full: nobody knows what a part of one's own has as options."""
_OF_THE_RUN = ("manifest.json", "choice.json")
"""Files of a model's folder that are of no use without the run, and name files of this machine."""


def push_run(
    run: Path, repo: str, console: Console, *, pairs: bool, texts: bool, public: bool, dry_run: bool
) -> list[Path]:
    """Put a run's model with its card into the repository ``repo`` (``name`` or ``owner/name``), or with ``pairs`` its
    queries, documents and judgements as a dataset. Private, unless ``public``; one that is there keeps what it is, and
    a public one takes nothing without ``public``.

    ``texts``: files of the model that hold words of documents, too, and the examples of its recipe. ``dry_run``: say
    what would be pushed, and connect to nobody. The token is that of the variable ``HF_TOKEN`` and stands in no file.
    Returns the files, relative to the repository. Raises ``InputError`` for a run that is not that far, a missing
    token, and what the server refuses.
    """
    with _pairs_folder(run, repo) if pairs else _model_folder(run, repo, texts) as folder:
        files = sorted(visible_files(folder))
        kind: Literal["dataset", "model"] = "dataset" if pairs else "model"
        for file in files:
            name = file.relative_to(folder).as_posix()
            console.print(f"{file.stat().st_size:>13,}  {name}", highlight=False, markup=False)
        total = sum(file.stat().st_size for file in files)
        said = f"{len(files)} files, {total:,} bytes, as a {'public' if public else 'private'} {kind} to {repo}"
        if dry_run:
            console.print(f"would push {said}", highlight=False)
        else:
            url = _upload(folder, repo, kind, public)
            console.print(f"pushed {said}\n{url}", highlight=False, soft_wrap=True)
        return [file.relative_to(folder) for file in files]


@contextmanager
def _model_folder(run: Path, repo: str, texts: bool) -> Iterator[Path]:
    """The files to push: links to the model's, and a recipe without this machine's paths and, unless ``texts``, without
    examples of prompts, which are of the documents."""
    model = run / "model"
    if not (model / "README.md").is_file():
        raise InputError(f"{run}: no finished model there; `sharpen run` makes one and its card")
    if not texts and (held := [name for name in MODEL_TEXTS if (model / name).exists()]):
        raise InputError(
            f"{model / held[0]}: holds words of your documents, and the model does not work without it; --texts pushes"
            " it, too"
        )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for file in visible_files(model):
            name = file.relative_to(model)
            if name.as_posix() not in _OF_THE_RUN:
                link_or_copy(file, folder / name)
        # what is written takes the place of a link; the run's own file stays as it is
        if (recipe := folder / "recipe.yaml").exists():
            values = YAML(typ="safe").load(recipe.read_text(encoding="utf-8"))
            write_text(recipe, dump_yaml(_without_places(values if texts else _without_examples(values))))
        _name_repository(folder / "README.md", repo)
        yield folder


@contextmanager
def _pairs_folder(run: Path, repo: str) -> Iterator[Path]:
    from sharpen.recipes.show import export_run

    with tempfile.TemporaryDirectory() as scratch:
        export_run(run, "datasets", Path(scratch) / "pairs", Console(quiet=True))
        _name_repository(Path(scratch) / "pairs" / "README.md", repo)
        yield Path(scratch) / "pairs"


def _name_repository(card: Path, repo: str) -> None:
    """In the card's code, where it names its own folder."""
    if "/" in repo:
        write_text(card, card.read_text(encoding="utf-8").replace('"this folder"', f'"{repo}"'))


def _without_examples(value: Any, key: str = "") -> Any:
    """A recipe's values with their number in place of examples; a pool that is a file is named as it is."""
    if isinstance(value, dict):
        return {name: _without_examples(inner, key if key == "options" else name) for name, inner in value.items()}
    if isinstance(value, list) and key in _EXAMPLES:
        return f"{len(value):,} example{'s' * (len(value) != 1)}, left out"
    return [_without_examples(inner, key) for inner in value] if isinstance(value, list) else value


def _without_places(value: Any) -> Any:
    """Paths by their last part, and addresses without who logs in there."""
    if isinstance(value, dict):
        return {_without_places(key): _without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        parts = urlsplit(value)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
    return without_place(value) if isinstance(value, str) else value


def _upload(folder: Path, repo: str, kind: Literal["dataset", "model"], public: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars

    if not (token := os.environ.get(TOKEN)):
        raise InputError(
            f"{TOKEN} is not set: put a token that may write into it (https://huggingface.co/settings/tokens)"
        )
    disable_progress_bars()
    api = HfApi(token=token)
    try:
        url = api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        # one that is there stays what it is, whatever was asked for
        if not public and not api.repo_info(url.repo_id, repo_type=kind).private:
            raise InputError(f"{repo}: is there already, and public; --public pushes into it, for everybody to see")
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, repo_type=kind, commit_message="Made with sharpen")
    except OfflineModeIsEnabled:
        raise InputError("HF_HUB_OFFLINE forbids to push; unset it") from None
    except (HfHubHTTPError, HTTPError, HFValidationError, OSError) as error:  # HTTPError: nobody was reached
        raise InputError(f"{repo}: not pushed: {first_line(error)}") from None
    return str(url)
