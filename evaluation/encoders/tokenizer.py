"""How long a text is for an encoder, without loading its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from sharpen.evaluation.encoders.load import hub_commit, model_digest, resolve_encoder
from sharpen.evaluation.files import InputError, sha256_tree

_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model")


def tokenizer_digest(name: str) -> str:
    """What stands for an encoder's tokenizer in a fingerprint. Raises ``InputError`` as ``resolve_encoder`` does."""
    source = resolve_encoder(name)
    folder = Path(source)
    if not folder.is_dir():
        return model_digest(name)
    files = [file for pattern in _FILES for file in folder.glob(pattern)]
    return sha256_tree(folder, files)


class TokenCounter:
    """Counts tokens as an encoder's tokenizer makes them, without the special ones around a text.

    ``name``: as ``load_encoder`` takes it. Raises ``InputError`` if it has no tokenizer that can be loaded.

    >>> count = TokenCounter("packaged:all-MiniLM-L6-v2")
    >>> count("Soak the beans."), count.special
    (5, 2)
    """

    def __init__(self, name: str) -> None:
        source = resolve_encoder(name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, revision=hub_commit(source))
        except (OSError, ValueError, ImportError) as error:
            raise InputError(f"corpus.chunk: the tokenizer of {name!r} could not be loaded: {error}") from error
        self._tokenizer = tokenizer
        self.special = tokenizer.num_special_tokens_to_add()
        """Tokens that are put around every text."""
        self.counted = self.unknown = 0
        """Tokens of all texts that ``tally`` was given, and those that stand for what the tokenizer does not know."""

    def __call__(self, text: str) -> int:
        return self.all([text])[0]

    def all(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [len(ids) for ids in self._ids(texts)]

    def tally(self, text: str) -> int:
        """Tokens of a text, which are added to those that were counted before."""
        (ids,) = self._ids([text])
        self.counted += len(ids)
        self.unknown += ids.count(self._tokenizer.unk_token_id)
        return len(ids)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return encoded["input_ids"]
