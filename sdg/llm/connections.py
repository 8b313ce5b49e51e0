"""Connections to an LLM's endpoint: which proxy they go through, and what is said where there is none."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import openai

from sharpen.evaluation.files import InputError, first_line
from sharpen.sdg.llm.messages import EndpointSettings
from sharpen.sdg.llm.servers import address_of, is_loopback, shown_url

CONNECT_SECONDS = 10.0
"""For a connection to come about; whoever is there answers sooner."""


def open_client(settings: EndpointSettings, timeout: float) -> openai.AsyncOpenAI:
    """The client of an endpoint; one on this machine is reached through no proxy.

    Raises ``InputError`` where the environment names a proxy of a kind that cannot be used.
    """
    address = address_of(settings.base_url)
    host = urlsplit(address.base_url).hostname or ""
    from_environment = not is_loopback(address.base_url)
    try:
        http_client = openai.DefaultAsyncHttpxClient(trust_env=from_environment)
    except (ImportError, ValueError) as error:  # no socksio, or a scheme that is none of a proxy
        if not proxy_bypass(host):
            names = ", ".join(f"{name.upper()}_PROXY" for name in sorted(getproxies()) if name != "no")
            raise InputError(
                f"llm: the proxy that the environment names ({names}) cannot be used for"
                f" {shown_url(address.base_url)}: {first_line(error)}. For a SOCKS proxy run `pip install socksio`;"
                f" where none is needed, put {host} into NO_PROXY"
            ) from error
        http_client = openai.DefaultAsyncHttpxClient(trust_env=False)
    client = openai.AsyncOpenAI(
        base_url=address.base_url,
        api_key=settings.api_key,
        timeout=openai.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        max_retries=0,
        default_query=dict(address.query) or None,
        http_client=http_client,
    )
    if client.base_url.host != "api.openai.com":  # the account that $OPENAI_ORG_ID names is nobody else's business
        client.organization = client.project = None
    return client


def key_headers(settings: EndpointSettings) -> dict[str, Any]:
    """Headers of each request, for a server that takes the key in another one than the protocol's."""
    header = address_of(settings.base_url).key_header
    return {"Authorization": openai.Omit(), header: settings.api_key} if header else {}


def is_unreachable(error: openai.APIConnectionError) -> bool:
    """Whether no connection came about or held; not if an answer was waited for in vain."""
    return not isinstance(error, openai.APITimeoutError) or type(error.__cause__).__name__ == "ConnectTimeout"


def may_be_billed(error: openai.APIConnectionError) -> bool:
    """Whether the request was sent and an answer waited for in vain, which the server may have been writing."""
    return isinstance(error, openai.APITimeoutError) and type(error.__cause__).__name__ not in (
        "ConnectTimeout",
        "PoolTimeout",
    )


def unreachable(settings: EndpointSettings, error: openai.APIConnectionError, retries: int) -> str:
    """What a person is told of an endpoint that cannot be reached, and of the proxy in front of it."""
    url = shown_url(settings.base_url)
    tried = f"llm: cannot reach {url} after {retries} retries ({first_line(error.__cause__ or error)})."
    if proxy := _proxy_of(settings.base_url):
        return (
            f"{tried} The way there is through the proxy {proxy} that the environment names: check that, or put"
            f" {urlsplit(url).hostname} into NO_PROXY; and check llm.base_url"
        )
    return f"{tried} Is the server running? Check llm.base_url"


def _proxy_of(base_url: str) -> str:
    """The proxy in front of a URL, without its password; empty: none."""
    parts = urlsplit(base_url)
    if is_loopback(base_url) or proxy_bypass(parts.hostname or ""):
        return ""
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    return shown_url(proxy if "://" in proxy or not proxy else f"http://{proxy}")
