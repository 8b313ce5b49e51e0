"""A server of vectors by OpenAI's protocol: text-embeddings-inference, vLLM, llama.cpp, Ollama and others."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np
import openai

from sharpen.evaluation.files import InputError, first_line

TEXTS_AT_ONCE = 8
TIMEOUT_S = 120.0
ONE_TEXT_REFUSED = (400, 413, 422, 500)
"""How servers answer to a text that is longer than they read."""


class Endpoint:
    """``url``: as ``http://localhost:8080/v1``. ``model``: by the name that the server has for it (None: the first that
    it lists). ``api_key_env``: the environment variable that holds the key; None: none is sent.

    Raises ``InputError`` for a variable that is not set, and a server that names no model.
    """

    def __init__(self, url: str, model: str | None = None, api_key_env: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--against {url}: expected a URL, as http://localhost:8080/v1")
        self.where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        """As it may be printed: without a password."""
        self._client = openai.OpenAI(
            base_url=url.removesuffix("/").removesuffix("/embeddings"),
            api_key=_key(api_key_env),
            timeout=TIMEOUT_S,
            max_retries=1,
            # a server on this machine is reached through no proxy
            http_client=openai.DefaultHttpxClient(trust_env=not _is_loopback(parts.hostname)),
        )
        self._client.organization = self._client.project = None
        self.model = model or self._first_model()

    def vectors(self, texts: Sequence[str]) -> tuple[list[np.ndarray | None], str]:
        """The vector of each text as the server gives it; None for one that it refuses, and what it says of the last
        such text. Raises ``InputError`` if it refuses all, or is not there."""
        found: list[np.ndarray | None] = []
        said = ""
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            part = list(texts[start : start + TEXTS_AT_ONCE])
            try:
                found += self._ask(part)
            except openai.APIStatusError as error:
                self._check(error)
                for text in part:
                    try:
                        found += self._ask([text])
                    except openai.APIStatusError as one:
                        self._check(one)
                        found.append(None)
                        said = first_line(one)[:300]
        if texts and all(vector is None for vector in found):
            raise InputError(f"--against {self.where}: it gives no vector of any text: {said}")
        return found, said

    def _ask(self, texts: list[str]) -> list[np.ndarray]:
        try:
            answer = self._client.embeddings.create(model=self.model, input=texts, encoding_format="float")
        except openai.APIConnectionError as error:
            raise self._no_answer(error) from None
        # the client gives what is no object of the protocol as it came: a list of llama-server's, a page of HTML
        rows = sorted(getattr(answer, "data", None) or [], key=lambda row: row.index)
        if len(rows) != len(texts):
            raise InputError(
                f"--against {self.where}: {len(rows)} vectors for {len(texts)} texts; is it /v1/embeddings?"
            )
        return [np.asarray(row.embedding, dtype=np.float32) for row in rows]

    def _check(self, error: openai.APIStatusError) -> None:
        if error.status_code not in ONE_TEXT_REFUSED:
            hint = {
                401: "give --api-key-env, the environment variable with the key",
                403: "give --api-key-env, the environment variable with the key",
                404: "the URL should end in /v1, and --model name one of the server's models",
            }.get(error.status_code, "see the server's log")
            raise InputError(f"--against {self.where}: {first_line(error)[:300]}; {hint}") from None

    def _no_answer(self, error: openai.APIConnectionError) -> InputError:
        said = first_line(error.__cause__ or error)[:300]
        return InputError(f"--against {self.where}: no answer ({said}); is the server running?")

    def _first_model(self) -> str:
        try:
            models = self._client.models.list().data or []
        except openai.APIConnectionError as error:
            raise self._no_answer(error) from None
        except openai.OpenAIError as error:
            if isinstance(error, openai.APIStatusError) and error.status_code in (401, 403):
                self._check(error)
            models = []
        except AttributeError:  # of the client, of what is no object of the protocol, as a page of HTML
            models = []
        if not models:
            raise InputError(f"--against {self.where}: it lists no model; give --model NAME, as the server calls it")
        return models[0].id


def _key(variable: str | None) -> str:
    if variable is None:
        return "-"
    if not os.environ.get(variable):
        raise InputError(f"--api-key-env {variable}: this environment variable is not set")
    return os.environ[variable]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
