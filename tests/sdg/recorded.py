"""Answers as a server gave them before, a list for each time it is asked; what is tested is what is made of them."""

from typing import ClassVar


class Recorded:
    identity = "recorded"
    ahead = None
    refused_parameters: ClassVar[dict[str, str]] = {}

    def __init__(self, *answers, chat=True, warm_up=False):
        self.answers, self.requests, self.asked = list(answers), [], []
        self.chat, self.warm_up = chat, warm_up

    def known(self, request):
        return None

    def ask(self, requests, use):
        self.requests = list(requests)
        self.asked.append(self.requests)
        answers = self.answers.pop(0) if self.requests else []
        return [use(n, request, answer) for n, (request, answer) in enumerate(zip(self.requests, answers, strict=True))]
