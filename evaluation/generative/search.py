"""The beams of many prompts, and a step of their search."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch.nn.functional import pad

from sharpen.evaluation.files import InputError
from sharpen.evaluation.generative.forward import Fed, Forward
from sharpen.evaluation.generative.ragged import log_sum_exp, ragged, rank_within, widen
from sharpen.evaluation.generative.trie import Trie

Mode = Literal["exact", "renormalised"]
MAX_TOKENS = 1024
"""Of prompts that enter in one step, unless a single one is longer."""
FULL_PASS = {"cpu": 128}
ANY_PASS = 1024
"""Tokens from which on a pass is about as fast a token as a larger one, on a CPU and on others. Smaller ones are filled
with the tokens that follow where the trie leaves no choice."""
MANY = 8
"""Times the beams: a node's children from which on its worse ones are dropped before all candidates are sorted."""
LOWEST = -1e30
"""Stands for a probability of 0, so that such a sequence is a result, the last, and not lost."""


@dataclass(frozen=True, slots=True)
class _Beams:
    """``n`` beams, those of a row side by side, best first.

    ``row``, ``node``, ``position`` (of the next token that is fed): int64, shape (n,). ``score``: float32, shape (n,).
    ``sees``: bool, shape (n, capacity): slots of the tokens that were fed. ``pending``: int64, shape (n, width): tokens
    that are not fed yet, ``waiting`` (n,) of them. ``ahead``: float32, shape (n, width): log-probabilities of the next
    ``known`` (n,) tokens, where the trie has but one way.
    """

    row: torch.Tensor
    node: torch.Tensor
    position: torch.Tensor
    score: torch.Tensor
    sees: torch.Tensor
    pending: torch.Tensor
    waiting: torch.Tensor
    ahead: torch.Tensor
    known: torch.Tensor

    def __len__(self) -> int:
        return len(self.row)

    def at(self, index: torch.Tensor) -> _Beams:
        return _Beams(*(getattr(self, f.name)[index] for f in fields(self)))

    def with_more(self, other: _Beams) -> _Beams:
        return _Beams(*(torch.cat(widen(getattr(self, f.name), getattr(other, f.name))) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Continuations: of the beam ``beam`` over the trie's edge ``edge``, int64, with log-probability ``logp``, float32;
    each of shape (candidates,), in the order of beams and tokens."""

    beam: torch.Tensor
    edge: torch.Tensor
    logp: torch.Tensor

    def at(self, index: torch.Tensor) -> _Candidates:
        return _Candidates(self.beam[index], self.edge[index], self.logp[index])


class Search:
    """``forward``'s model over ``rows`` prompts at once. See ``beam_search`` for what is searched."""

    def __init__(self, forward: Forward, trie: Trie, beams: int, rows: int, mode: Mode, device: torch.device) -> None:
        self.forward, self.width, self.exact, self.device = forward, beams, mode == "exact", device
        self.indptr, self.tokens, self.children = (
            torch.from_numpy(array).to(device) for array in (trie.indptr, trie.tokens, trie.children)
        )
        self.done_scores = torch.full((rows, beams), -torch.inf, device=device)
        self.done_leaves = torch.zeros(rows, beams, dtype=torch.int64, device=device)
        self.slot_tokens = torch.zeros(rows, 0, dtype=torch.int64, device=device)
        self.slot_positions = torch.zeros_like(self.slot_tokens)
        self.prompt_of: list[int | None] = [None] * rows
        self.beams = self._roots([], [])

    def run(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[tuple[int, float]]]]:
        """(prompt's index, its results), as prompts are done. They enter by length, the longest first."""
        waiting = deque(sorted(range(len(prompts)), key=lambda i: -len(prompts[i])))
        while waiting or len(self.beams):
            self._admit(prompts, waiting)
            self._select(self._candidates())
            yield from self._take_done()

    # prompts come and go

    def _admit(self, prompts: Sequence[Sequence[int]], waiting: deque[int]) -> None:
        rows, entering, tokens = [], [], 0
        for row, held in enumerate(self.prompt_of):
            if held is None and waiting and (not rows or tokens + len(prompts[waiting[0]]) <= MAX_TOKENS):
                self.prompt_of[row] = waiting.popleft()
                rows.append(row)
                entering.append(prompts[self.prompt_of[row]])
                tokens += len(entering[-1])
        if rows:
            self.done_scores[rows] = -torch.inf
            self.beams = self.beams.with_more(self._roots(rows, entering))

    def _roots(self, rows: list[int], prompts: list[Sequence[int]]) -> _Beams:
        """A beam a prompt, with the whole prompt to be fed."""
        size = len(rows)
        zeros = torch.zeros(size, dtype=torch.int64, device=self.device)
        pending = torch.zeros(size, max(map(len, prompts), default=0), dtype=torch.int64)
        for line, prompt in zip(pending, prompts, strict=True):
            line[: len(prompt)] = torch.as_tensor(prompt)
        return _Beams(
            row=zeros + torch.tensor(rows, dtype=torch.int64, device=self.device),
            node=zeros,
            position=zeros,
            score=torch.zeros(size, device=self.device),
            sees=torch.zeros(size, 0, dtype=torch.bool, device=self.device),
            pending=pending.to(self.device),
            waiting=zeros + torch.tensor([len(p) for p in prompts], dtype=torch.int64, device=self.device),
            ahead=torch.zeros(size, 0, device=self.device),
            known=zeros,
        )

    def _take_done(self) -> Iterator[tuple[int, list[tuple[int, float]]]]:
        """The results of the prompts that have no beams left."""
        alive = set(self.beams.row.unique().tolist())
        rows = [row for row, prompt in enumerate(self.prompt_of) if prompt is not None and row not in alive]
        scores, leaves = self.done_scores[rows].tolist(), self.done_leaves[rows].tolist()
        for row, own_scores, own_leaves in zip(rows, scores, leaves, strict=True):
            pairs = [(leaf, s) for leaf, s in zip(own_leaves, own_scores, strict=True) if s > -torch.inf]
            yield self.prompt_of[row], sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
            self.prompt_of[row] = None

    # what may follow, and how probable it is

    def _candidates(self) -> _Candidates:
        """All continuations of the beams, after a pass of the model over what is not known yet."""
        choice = self._counts(self.beams.node) > 1
        # where there is no choice, renormalised probabilities are 1, whatever the model says
        index = torch.nonzero((self.beams.known == 0) if self.exact else choice)[:, 0]
        found = self._pass(index) if len(index) else None
        beams = self.beams
        single = torch.nonzero(~choice)[:, 0]
        sure = beams.ahead[single, 0] if self.exact and len(single) else torch.zeros(len(single), device=self.device)
        known = _Candidates(single, self.indptr[beams.node[single]].long(), sure)
        if found is None:
            return known
        both = _Candidates(*(torch.cat((getattr(found, f.name), getattr(known, f.name))) for f in fields(known)))
        return both.at(both.beam.argsort(stable=True))

    def _counts(self, nodes: torch.Tensor) -> torch.Tensor:
        return (self.indptr[nodes + 1] - self.indptr[nodes]).long()

    def _pass(self, index: torch.Tensor) -> _Candidates:
        """Feed the beams at ``index`` what they have not fed. Returns the continuations of those that have a choice;
        the others' are put ``ahead``."""
        beams = self.beams.at(index)
        following, nodes, count = self._following(beams)
        owner, offset = ragged(torch.zeros_like(count), beams.waiting + count)
        behind = offset - beams.waiting[owner]  # -1: the last of the pending ones
        tokens = torch.cat([beams.pending, following], dim=1)
        column = torch.where(behind < 0, offset, beams.pending.shape[1] + behind)
        fed = self._place(beams, owner, offset, tokens[owner, column], torch.nonzero(behind >= -1)[:, 0])
        line, place = owner[fed.last], behind[fed.last] + 1
        found = self._evaluate(fed, nodes[line, place])

        alone = self._counts(beams.node)[line] == 1
        ahead = torch.zeros(len(beams), nodes.shape[1], device=self.device)
        point = torch.nonzero(alone)[:, 0]  # each has one continuation
        of_alone = alone[found.beam]
        ahead[line[point], place[point]] = found.logp[of_alone]
        self._remember(
            index, fed, beams.waiting + count, ahead, torch.where(self._counts(beams.node) == 1, count + 1, 0)
        )
        chosen = found.at(~of_alone)
        return replace(chosen, beam=index[line[chosen.beam]])

    def _following(self, beams: _Beams) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The tokens behind each beam's node up to the last whose own continuation is sure, as many as the pass has
        room for: tokens, shape (n, most), the nodes from each beam's own on, (n, most + 1), and their number, (n,)."""
        room = (FULL_PASS.get(self.device.type, ANY_PASS) - int(beams.waiting.sum())) // len(beams) if self.exact else 0
        nodes, tokens = [beams.node], []
        count = torch.zeros_like(beams.node)
        goes_on = self._counts(beams.node) == 1
        while len(tokens) < room:
            edge = self.indptr[nodes[-1]].long()
            child = self.children[edge].long().clamp(min=0)
            goes_on = goes_on & (self.children[edge] >= 0) & (self._counts(child) == 1)
            if not goes_on.any():
                break
            nodes.append(torch.where(goes_on, child, nodes[-1]))
            tokens.append(self.tokens[edge].long())
            count = count + goes_on
        empty = torch.zeros(len(beams), 0, dtype=torch.int64, device=self.device)
        return torch.stack(tokens, 1) if tokens else empty, torch.stack(nodes, 1), count

    def _place(
        self, beams: _Beams, owner: torch.Tensor, offset: torch.Tensor, token: torch.Tensor, last: torch.Tensor
    ) -> Fed:
        """Slots for the tokens, of which the ``offset``-th of a beam sees those before it: the first of its row that no
        beam sees."""
        row = beams.row[owner]
        rows = len(self.prompt_of)
        taken = torch.zeros(rows, self.beams.sees.shape[1], dtype=torch.int32, device=self.device)
        taken = taken.index_add_(0, self.beams.row, self.beams.sees.int()) > 0
        needed = int((taken.sum(1) + torch.bincount(row, minlength=rows)).max())
        if needed > taken.shape[1]:  # grows by more, as each growth copies
            more = (0, needed + needed // 2 - taken.shape[1])
            taken, self.slot_tokens, self.slot_positions = (
                pad(table, more) for table in (taken, self.slot_tokens, self.slot_positions)
            )
        slot = taken.int().argsort(dim=1, stable=True)[row, rank_within(row)]
        sees = pad(beams.sees, (0, taken.shape[1] - beams.sees.shape[1]))[owner]
        position_in_fed = torch.arange(len(token), device=self.device)
        seer, seen = ragged(position_in_fed - offset, offset + 1)
        sees[seer, slot[seen]] = True
        self.slot_tokens[row, slot] = token
        self.slot_positions[row, slot] = beams.position[owner] + offset
        return Fed(row, slot, sees, last, self.slot_tokens, self.slot_positions)

    def _remember(
        self, index: torch.Tensor, fed: Fed, run: torch.Tensor, ahead: torch.Tensor, known: torch.Tensor
    ) -> None:
        """That the beams at ``index`` have fed ``run`` tokens, and know what is ``ahead``."""
        beams = self.beams
        sees = pad(beams.sees, (0, fed.sees.shape[1] - beams.sees.shape[1]))
        sees[index] = fed.sees[run.cumsum(0) - 1]
        ahead, all_ahead = widen(ahead, beams.ahead)
        self.beams = replace(
            beams,
            sees=sees,
            position=beams.position.index_add(0, index, run),
            waiting=beams.waiting.index_fill(0, index, 0),
            ahead=all_ahead.index_copy(0, index, ahead),
            known=beams.known.index_copy(0, index, known),
        )

    def _evaluate(self, fed: Fed, nodes: torch.Tensor) -> _Candidates:
        """The continuations of ``nodes``, which ``fed.last`` lead to, as of beams 0, 1, .., without such as cannot be
        among the best."""
        wanted = None if self.exact else self._wanted(nodes)
        found = []
        for start, logits in self.forward.logits(fed, wanted):
            first = self.indptr[nodes[start : start + len(logits)]].long()
            point, edge = ragged(first, self._counts(nodes[start : start + len(logits)]))
            token = self.tokens[edge].long()
            if self.exact:
                # not by logsumexp, which is nearer to float64 by some 1e-5: scores are to be those of transformers
                logp = _log_probabilities(logits)[point, token]
            else:
                logp = logits[point, token if wanted is None else torch.searchsorted(wanted, token)]
                logp = logp - log_sum_exp(logp, point, len(logits))[point]
            logp = logp.clamp(min=LOWEST)
            kept = self._best_children(point, edge, logp)
            found.append(_Candidates(start + point[kept], edge[kept], logp[kept]))
        return _Candidates(*(torch.cat([getattr(part, f.name) for part in found]) for f in fields(_Candidates)))

    def _wanted(self, nodes: torch.Tensor) -> torch.Tensor:
        """The tokens that may follow any of the nodes, rising."""
        unique = nodes.unique()
        return self.tokens[ragged(self.indptr[unique].long(), self._counts(unique))[1]].unique().long()

    def _best_children(self, point: torch.Tensor, edge: torch.Tensor, logp: torch.Tensor) -> torch.Tensor | slice:
        """Which may be among the best ``width`` leaves or nodes of their point, where it has many."""
        counts = torch.bincount(point)
        if (most := int(counts.max())) <= MANY * self.width:
            return slice(None)
        column = torch.arange(len(point), device=self.device) - (counts.cumsum(0) - counts)[point]
        is_leaf = self.children[edge] < 0
        kept = torch.zeros_like(is_leaf)
        for kind in (is_leaf, ~is_leaf):
            table = torch.full((len(counts), most), -torch.inf, device=self.device)
            table[point, column] = torch.where(kind, logp, -torch.inf)
            worst = table.topk(self.width, dim=1, sorted=False).values.amin(1)
            kept |= kind & (logp >= worst[point])
        return kept

    # which of these are results, and which are the next beams

    def _select(self, candidates: _Candidates) -> None:
        """Take the best candidates of each row, as results or as its next beams."""
        beams = self.beams
        score = beams.score[candidates.beam] + candidates.logp
        if score.isnan().any():
            raise InputError("the model answers with NaN; its weights are broken, or its precision is too low for it")
        order = score.argsort(descending=True, stable=True)
        order = order[beams.row[candidates.beam[order]].argsort(stable=True)]
        candidates, score = candidates.at(order), score[order]
        row = beams.row[candidates.beam]
        child = self.children[candidates.edge].long()
        is_result = (child < 0) & (rank_within(row) < self.width)
        self._add_results(row[is_result], -1 - child[is_result], score[is_result])

        inner = torch.nonzero(child >= 0)[:, 0]
        inner = inner[rank_within(row[inner]) < self.width]
        # scores only fall: a beam that is no better than the worst of enough results gives none
        inner = inner[score[inner] > self.done_scores[row[inner], -1]]
        self._extend(candidates.at(inner), child[inner], score[inner])

    def _add_results(self, row: torch.Tensor, leaf: torch.Tensor, score: torch.Tensor) -> None:
        if not len(row):
            return
        scores = torch.full_like(self.done_scores, -torch.inf)
        leaves = torch.zeros_like(self.done_leaves)
        rank = rank_within(row)
        scores[row, rank], leaves[row, rank] = score, leaf
        scores, order = torch.cat([self.done_scores, scores], 1).sort(dim=1, descending=True, stable=True)
        self.done_scores = scores[:, : self.width]
        self.done_leaves = torch.cat([self.done_leaves, leaves], 1).gather(1, order)[:, : self.width]

    def _extend(self, candidates: _Candidates, node: torch.Tensor, score: torch.Tensor) -> None:
        """The next beams: those of ``candidates``, which lead to ``node``."""
        parents = self.beams.at(candidates.beam)
        known = (parents.known - 1).clamp(min=0)
        is_new = known == 0  # else it went through the model with those before it
        width = int((parents.waiting + is_new).max()) if len(parents) else 0
        pending = pad(parents.pending, (0, max(0, width - parents.pending.shape[1])))
        line = torch.nonzero(is_new)[:, 0]
        pending[line, parents.waiting[line]] = self.tokens[candidates.edge[line]].long()
        self.beams = replace(
            parents,
            node=node,
            score=score,
            pending=pending[:, :width],
            waiting=parents.waiting + is_new,
            ahead=parents.ahead[:, 1 : 1 + int(known.max()) if len(known) else 1],
            known=known,
        )


def _log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """A function of its own, for the benchmark's clock."""
    return logits.log_softmax(dim=1)
