"""The thoughts of reasoning models, where they stand in the text of the answer."""

from __future__ import annotations

import re

MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""What models put around their thoughts: DeepSeek and Qwen, ..., Seed, Magistral, Kimi, Command, OpenThinker."""
_FINAL = re.compile(r"<\|channel\|>final.*?<\|message\|>(.*?)(?=<\|(?:end|return|start|channel)\|>|$)", re.DOTALL)
_FINAL_BARE = re.compile(r"^\s*analysis(?=\S).*?assistantfinal(.*)$", re.DOTALL)
"""As gpt-oss writes it, where the server hides its special tokens."""


def without_thoughts(text: str) -> tuple[str, bool]:
    """The answer in a text, and whether there was room for one: False if the text ends within the thoughts.

    Thoughts stand before the answer; a template may have written their opening mark into the prompt, so that only the
    closing one is here. What a query says about such a mark is left alone.

    >>> without_thoughts("<think>They want one.</think>how to descale a kettle")
    ('how to descale a kettle', True)
    >>> without_thoughts("<think>They want")
    ('', False)
    >>> without_thoughts("what does <think> mean in the output")
    ('what does <think> mean in the output', True)
    """
    if "<|channel|>" in text:
        finals = _FINAL.findall(text)
        return (finals[-1].strip(), True) if finals else ("", False)
    if bare := _FINAL_BARE.match(text):
        return bare[1].strip(), True
    for opening, closing in MARKS:
        if opening in text or closing in text:
            text, whole = _without(text, opening, closing)
            if not whole:
                return "", False
    return text, True


def _without(text: str, opening: str, closing: str) -> tuple[str, bool]:
    if not text.lstrip().startswith(("{", "[{", '["')):  # in JSON it is a part of a query
        before, mark, after = text.partition(closing)
        if mark and opening not in before and _ends_thoughts(before, after):
            text = after
    pair = rf"(?:^|\n)\s*{re.escape(opening)}"
    text = re.sub(rf"{pair}.*?{re.escape(closing)}", "\n", text, flags=re.DOTALL)
    begun = re.search(pair, text)
    if begun and not text[: begun.start()].strip():
        return "", False
    return (text[: begun.start()] if begun else text).strip(), True


def _ends_thoughts(before: str, after: str) -> bool:
    """Whether a closing mark without an opening one stands where thoughts end, and not in the midst of a sentence."""
    return "\n" in before or after[:1] in ("", "\n") or not (before.endswith(" ") and after.startswith(" "))
