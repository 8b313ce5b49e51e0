"""Which LLM is asked: on this machine, or at one or several OpenAI-compatible endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from sharpen.evaluation.contents import content
from sharpen.evaluation.files import sha256_file
from sharpen.evaluation.packaged_llms import PACKAGED_LLMS, locate_llm
from sharpen.evaluation.settings import Count, Settings
from sharpen.sdg.llm.budget import Prices, Spending
from sharpen.sdg.llm.client import Ahead, LLMClient, Refused, api_key_from, warn
from sharpen.sdg.llm.embedded import serve
from sharpen.sdg.llm.journal import Journal
from sharpen.sdg.llm.messages import Answer, EndpointSettings, Request
from sharpen.sdg.llm.servers import address_of

JOURNAL = "llm_answers.sqlite"


def _is_url(value: str) -> str:
    parts = urlsplit(value)
    if not (parts.scheme in ("http", "https") and parts.hostname):
        raise ValueError("it must begin with http:// or https://, as http://localhost:8000/v1")
    _ = parts.port  # raises ValueError for one that is no number
    return value


BaseURL = Annotated[str, AfterValidator(_is_url)]


class RemoteEndpoint(Settings):
    """One of several servers of the same model."""

    base_url: BaseURL = Field(description="An OpenAI-compatible endpoint: http://localhost:8000/v1, ...")
    model: str | None = Field(None, description="The model's name there, if it is another than llm.model.")
    api_key_env: str | None = Field(None, description="The environment variable that holds the key.")
    concurrency: Count | None = Field(None, description="Requests at once at most. Default: llm.concurrency.")


class LLMSettings(Settings):
    """An LLM and how it is reached. Where that is changes no answer and no fingerprint.

    >>> LLMSettings(base_url="http://localhost:8000/v1", model="Qwen/Qwen3-4B-Instruct-2507").identity
    'Qwen/Qwen3-4B-Instruct-2507'
    """

    embedded: str | None = Field(
        None, description="A packaged model or a .gguf file, served on this machine for as long as it is needed."
    )
    base_url: BaseURL | None = Field(None, description="An OpenAI-compatible endpoint: http://localhost:8000/v1, ...")
    model: str | None = Field(None, description="The model's name at base_url.")
    api_key_env: str | None = Field(None, description="The environment variable that holds the key.")
    endpoints: tuple[RemoteEndpoint, ...] = Field(
        (), description="In place of base_url: several that serve the same model."
    )
    chat: bool | None = Field(
        None,
        description=(
            "Ask by chat (true) or have the prompt continued (false, for base models). Default: what the embedded model"
            " is made for; true at a base_url."
        ),
    )
    concurrency: Count = Field(
        32,
        description=(
            "Requests at once at most at an endpoint; how many there are adapts to it. An embedded server takes one at"
            " a time, so that answers can be repeated."
        ),
    )
    timeout: Annotated[float, Field(gt=0)] = Field(120, description="Seconds for one try.")
    max_retries: Annotated[int, Field(ge=0)] = Field(
        6, description="Tries more, after refused connections, time-outs, 408, 409, 425, 429 and 5xx."
    )
    extra_body: dict[str, Any] = Field(
        {},
        description=(
            "More parameters of every request to this LLM, sent as they are: {reasoning_effort: low}, or"
            " {chat_template_kwargs: {enable_thinking: false}}. A strategy's own hold where both have one."
        ),
    )
    batch: bool = Field(
        False,
        description=(
            "Ask by the endpoint's batch API: answers within a day, often at half the price (prices.batch: 0.5). A run"
            " that was stopped goes on with its batch."
        ),
    )
    prices: Prices | None = Field(None, description="For `sharpen estimate`, the manifests and the budget.")
    budget: Annotated[Decimal, Field(gt=0)] | None = Field(
        None,
        description=(
            "Nothing is asked that could cost more than this in all stages of a run together; what was paid for is"
            " used. A part with an llm of its own has that one's budget."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"embedded": "gemma-3-270m"} if value == "embedded" else value

    @model_validator(mode="after")
    def _consistent(self):
        if (self.embedded is not None) + (self.base_url is not None) + bool(self.endpoints) != 1:
            raise ValueError("give one of embedded, base_url and endpoints (with model)")
        if self.embedded is None and not self.model:
            raise ValueError("base_url and endpoints need model, the model's name there")
        if self.budget is not None and self.prices is None:
            raise ValueError("budget needs prices: {input, output}, money for a million tokens")
        if self.batch and self.base_url is None:
            raise ValueError("batch needs base_url: batches are asked at one endpoint")
        return self

    @property
    def identity(self) -> str:
        """What answers depend on: an embedded model by the sum of its weights, any other by its name."""
        if self.embedded is None:
            return self.model
        if self.embedded in PACKAGED_LLMS:
            sha256 = PACKAGED_LLMS[self.embedded].sha256
        else:
            sha256 = sha256_file(locate_llm(self.embedded))
        return f"{Path(self.embedded).name}@{sha256[:16]}"

    @property
    def asks_by_chat(self) -> bool:
        if self.chat is not None:
            return self.chat
        return self.embedded not in PACKAGED_LLMS or PACKAGED_LLMS[self.embedded].chat

    def remote(self) -> tuple[RemoteEndpoint, ...]:
        """The endpoints outside of this machine, with every default filled in."""
        if self.embedded:
            return ()
        given = self.endpoints or (RemoteEndpoint(base_url=self.base_url, api_key_env=self.api_key_env),)
        return tuple(
            e.model_copy(update={"model": e.model or self.model, "concurrency": e.concurrency or self.concurrency})
            for e in given
        )

    def fingerprint(self) -> Any:
        """The model, how it is asked, and the budget, which says how much is asked."""
        identity = content("llm", self.embedded or self.model, lambda: self.identity)
        how = [identity, self.asks_by_chat, self.budget and str(self.budget)]
        return [*how, self.extra_body] if self.extra_body else how

    @property
    def expected_prices(self) -> Prices | None:
        """What answers will cost, by batch or else."""
        return self.prices.in_batches() if self.batch and self.prices else self.prices

    @property
    def purse(self) -> str:
        """What names the money that all who ask this model within this budget share; not its prices, which may be
        mended when some of it is spent."""
        budget = "" if self.budget is None else f"{self.budget.normalize():f} "
        return f"{self.embedded or self.model}, {budget}{self.prices.currency if self.prices else ''}"

    def check(self) -> None:
        """Raise ``InputError`` if the weights or a key is not there."""
        if self.embedded:
            locate_llm(self.embedded)
        for endpoint in self.remote():
            api_key_from(endpoint.api_key_env)


class LLM:
    """An LLM with the journal of its answers: what the verbs of this package ask.

    ``base_url`` and ``model``: an OpenAI-compatible endpoint; ``embedded``: a packaged model or a .gguf file, served on
    this machine for as long as a verb needs it; ``settings`` in place of these: everything that a recipe can say.
    ``journal``: the SQLite file that keeps every answer, so that none is asked or paid for twice. ``say`` is given a
    sentence on what a person should know, as of a parameter that the server does not take. Nothing is opened before it
    is used. Raises pydantic's ``ValidationError`` if what is given does not fit together.

    >>> llm = LLM("http://localhost:8000/v1", model="Qwen/Qwen3-4B-Instruct-2507", journal="answers.sqlite")
    >>> llm.identity, llm.settings.asks_by_chat
    ('Qwen/Qwen3-4B-Instruct-2507', True)

    A verb opens and closes the LLM by itself. To keep an embedded one running over several, open it yourself::

        with LLM(embedded="gemma-3-270m").open() as client:
            queries = generate_queries(corpus, client, strategies)
    """

    def __init__(
        self,
        base_url: str | None = None,
        model: str | None = None,
        *,
        embedded: str | None = None,
        settings: LLMSettings | None = None,
        journal: str | Path = JOURNAL,
        say: Callable[[str], None] = warn,
    ) -> None:
        if settings is None:
            settings = LLMSettings(base_url=base_url, model=model, embedded=embedded)
        elif base_url or model or embedded:
            raise ValueError("give settings, or base_url with model, or embedded; not several of them")
        self.settings = settings
        self.journal = Path(journal)
        self.say = say
        self._refused: dict[str, Refused] = {}

    @property
    def identity(self) -> str:
        """What answers depend on: an embedded model by the sum of its weights, any other by its name."""
        return self.settings.identity

    def open(self, spending: Spending | None = None) -> AbstractContextManager[LLMClient]:
        """A block that yields the client; an embedded model is served until its end. ``spending``: counts what is
        spent, with its budget, over several such blocks."""
        return open_llm(self.settings, self.journal, spending, self.say, self._refused)


def opened(llm: LLM | LLMSettings | LLMClient) -> AbstractContextManager[LLMClient]:
    """A block that yields the client of whatever stands for an LLM; a client that is open already stays open."""
    if isinstance(llm, LLMSettings):
        llm = LLM(settings=llm)
    return llm.open() if isinstance(llm, LLM) else nullcontext(llm)


@contextmanager
def open_llm(
    settings: LLMSettings,
    journal: Path,
    spending: Spending | None = None,
    say: Callable[[str], None] = warn,
    refused: dict[str, Refused] | None = None,
    ahead: Ahead | None = None,
) -> Iterator[LLMClient]:
    """The LLM with its journal of answers; an embedded one is served for the length of the block. ``spending``: where
    what is spent is counted (default: anew, with the settings' budget). ``say``: as of ``LLM``. ``refused``:
    what servers are known not to take, to which more is added. ``ahead``: as of ``LLMClient``."""
    refused = {} if refused is None else refused
    with ExitStack() as stack:
        answers = stack.enter_context(closing(Journal(journal)))
        if settings.embedded:
            # started even if the journal has every answer: to know that, the prompts must be made, and starting takes a
            # second
            served = stack.enter_context(serve(locate_llm(settings.embedded)))
            endpoints = [EndpointSettings(served.base_url, served.api_key, "embedded", max_concurrency=1, local=True)]
        else:
            endpoints = [
                EndpointSettings(e.base_url, api_key_from(e.api_key_env), e.model, e.concurrency)
                for e in settings.remote()
            ]
            for endpoint in endpoints:
                if (mended := address_of(endpoint.base_url).mended) and endpoint.base_url not in refused:
                    refused[endpoint.base_url] = {}  # said once
                    say(f"llm.base_url: it is taken as {mended}; the path of a request is added to it.")
        yield LLMClient(
            endpoints,
            answers,
            settings.identity,
            settings.timeout,
            settings.max_retries,
            spending or Spending(settings.prices, settings.budget),
            chat=settings.asks_by_chat,
            extra_body=settings.extra_body,
            batch=settings.batch,
            ahead=ahead,
            say=say,
            refused=refused,
        )


@contextmanager
def known_answers(settings: LLMSettings, journal: Path) -> Iterator[Callable[[Request], Answer | None]]:
    """What finds the answers that the LLM has given before; nothing is asked and nothing written."""
    if not journal.exists():
        yield lambda _request: None
        return
    with closing(Journal(journal)) as answers:
        yield LLMClient([], answers, settings.identity, extra_body=settings.extra_body).known
