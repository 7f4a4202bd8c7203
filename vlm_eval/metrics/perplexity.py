"""Perplexity of the answers under a causal language model that had no part in writing them.

Jelinek et al. 1977; long texts by overlapping windows as in https://huggingface.co/docs/transformers/perplexity, with
a start token in every window: without it the first token of each is scored out of the blue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Mapping, Optional, Sequence

from vlm_eval import checkpoints
from vlm_eval.errors import BadInput
from vlm_eval.metrics import text_checkpoints
from vlm_eval.metrics.base import Answered, Columns, Key, column, score_texts
from vlm_eval.rows import Score
from vlm_eval.statistics.intervals import named_mean, named_ratio, named_share

NEEDS = ("config.json", "tokenizer.json|vocab.json|*.model|vocab.txt")
DTYPES = ("float32", "bfloat16", "float16")
# Nats a token. A blind guess among a million tokens costs 14; a model far beyond that is broken (and e ** 710 is no
# float any more).
MOST_NATS = 100.0


@dataclass
class PerplexityConfig:
    _target_: str = "???"
    checkpoint: str = "ai-forever/rugpt3large_based_on_gpt2"
    revision: Optional[str] = None
    window: int = 1024
    overlap: float = 0.5
    min_tokens: int = 5
    batch_tokens: int = 4096
    dtype: str = "float32"
    device: Optional[str] = None
    use_safetensors: bool = True


class Perplexity:
    """Columns of an answer: `perplexity`, `perplexity_nll` (nats, the sum over its tokens), `perplexity_tokens`. Under
    `min_tokens` the first two are None: the perplexity of two words says nothing.

    Numbers of other checkpoints cannot be compared: each counts in tokens of its own.
    """

    def __init__(self, config: PerplexityConfig):
        for key, least in (("window", 2), ("min_tokens", 1), ("batch_tokens", 1)):
            if getattr(config, key) < least:
                raise BadInput(f"metrics.perplexity.{key}={getattr(config, key)}: at least {least}")
        if not 0 <= config.overlap < 1:
            raise BadInput(f"metrics.perplexity.overlap={config.overlap}: a share of the window, from 0 to below 1")
        if config.dtype not in DTYPES:
            raise BadInput(f"metrics.perplexity.dtype={config.dtype}: it is one of {', '.join(DTYPES)}")
        self.config = config
        self.hash: Optional[str] = None

    def card_gib(self) -> float:
        return text_checkpoints.card_gib(self.config.device)

    def check(self) -> Optional[str]:
        needs = (*NEEDS, text_checkpoints.weights(self.config.use_safetensors))
        return text_checkpoints.problem(self.config.checkpoint, needs, self.config.revision)

    def score(self, data: Answered) -> dict[Key, Columns | str]:
        found = self.check() or text_checkpoints.attempt(self.config.checkpoint, lambda: self._with_model(data))
        return {(a.item_id, a.repeat): found for a in data.answers} if isinstance(found, str) else found

    def _with_model(self, data: Answered) -> dict[Key, Columns | str]:
        folder = text_checkpoints.fetch(self.config.checkpoint, self.config.revision)
        self.hash = text_checkpoints.fingerprint(folder)
        model = CausalModel(folder, self.config)
        return score_texts(data, lambda texts: self._score_distinct(model, texts))

    def _score_distinct(self, model: CausalModel, texts: list[str]) -> list[Columns | str]:
        # JSON can hold half of a UTF-16 pair, which tokenizers refuse.
        encodable = [text.encode("utf-8", "replace").decode() == text for text in texts]
        tokens = [model.tokens(text) if fine else [] for text, fine in zip(texts, encodable)]
        long = [ids if len(ids) >= self.config.min_tokens else [] for ids in tokens]
        return [
            self._columns(len(ids), nll) if fine else "the answer is not valid Unicode"
            for ids, nll, fine in zip(tokens, model.nll(long), encodable)
        ]

    def _columns(self, tokens: int, nll: float) -> Columns | str:
        if tokens < self.config.min_tokens:
            return {"perplexity": None, "perplexity_nll": None, "perplexity_tokens": tokens}
        if not nll / tokens <= MOST_NATS:  # nan too
            return f"the language model is broken: a loss of {nll / tokens:.4g} nats a token"
        return {"perplexity": math.exp(nll / tokens), "perplexity_nll": nll, "perplexity_tokens": tokens}

    def facts(self) -> Mapping[str, str | int | None]:
        name = self.config.checkpoint
        if checkpoints.is_folder(name):
            name = Path(name).expanduser().resolve().name
        return {"checkpoint": name, "checkpoint_sha256": self.hash}

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        tokens = column(scores, data, "perplexity_tokens")
        noise = [(cluster, float(count < self.config.min_tokens)) for cluster, count in tokens]
        summary = named_share("perplexity/noise_rate", noise)
        kept = [score for score in scores if score.values.get("perplexity") is not None]
        if not kept:
            return summary
        pairs = zip(column(kept, data, "perplexity_nll"), column(kept, data, "perplexity_tokens"), strict=True)
        nats = named_ratio("perplexity/corpus", [(cluster, nll, count) for (cluster, nll), (_, count) in pairs])
        summary |= {name: value if name.endswith("_n") else math.exp(value) for name, value in nats.items()}
        summary |= named_mean("perplexity/mean", column(kept, data, "perplexity"))
        summary["perplexity/tokens"] = sum(score.values["perplexity_tokens"] for score in kept)
        return summary


def windows(count: int, capacity: int, overlap: float) -> Iterator[tuple[int, int, int]]:
    """(start, first, end) of each window over `count` tokens: it shows start..end and scores first..end. Every token
    is scored once, from the second window on after at least `overlap` of the `capacity` as context."""
    step = max(1, math.floor(capacity * (1 - overlap)))
    first, end = 0, min(count, capacity)
    while first < count:
        yield max(0, end - capacity), first, end
        first, end = end, min(count, end + step)


class CausalModel:
    """A causal language model and its tokenizer, loaded. ValueError for a folder that is something else."""

    def __init__(self, folder: str, config: PerplexityConfig):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        # As GPT-2 was trained: its one special token ends a text and starts the next.
        starts = [x for x in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id) if x is not None]
        if not starts:
            raise ValueError("its tokenizer has no start token (bos_token) and no eos_token in its place")
        self.bos = starts[0]
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, config.dtype),
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=config.use_safetensors or None,
        )
        if found["missing_keys"]:  # transformers fills them with random numbers and goes on
            raise ValueError(f"weights are missing in it: {', '.join(sorted(found['missing_keys'])[:3])} ...")
        self.model = model.eval().to(config.device or text_checkpoints.device())
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or config.window
        self.capacity = min(config.window, positions) - 1  # the start token takes one
        self.overlap, self.batch_tokens = config.overlap, config.batch_tokens
        if self._sees_ahead():
            raise ValueError("not a causal model: it sees the tokens that it should predict")

    def tokens(self, text: str) -> list[int]:
        # What looks like a special token in an answer is text: a model babbled it.
        found = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return found["input_ids"]

    def nll(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """Negative log-likelihood in nats of each text's tokens, the start token not among them; 0 of an empty one."""
        known = self.model.get_input_embeddings().weight.shape[0]
        if max((max(ids) for ids in texts if ids), default=0) >= known:
            raise ValueError(f"the tokenizer knows more than the model's {known} tokens: they do not belong together")
        shown: list[tuple[int, list[int], int]] = []  # text, token ids, how many of the last ones are scored
        for number, ids in enumerate(texts):
            for start, first, end in windows(len(ids), self.capacity, self.overlap):
                shown.append((number, [self.bos, *ids[start:end]], end - first))
        sums = [0.0] * len(texts)
        for batch in text_checkpoints.batches_by_length([len(ids) for _, ids, _ in shown], self.batch_tokens):
            rows = [shown[index] for index in batch]
            losses = self._losses([ids for _, ids, _ in rows], [scored for _, _, scored in rows])
            for (number, _, _), loss in zip(rows, losses, strict=True):
                sums[number] += loss
        return sums

    def _losses(self, rows: list[list[int]], scored: list[int]) -> list[float]:
        """The summed loss of each row's last `scored` tokens. Padding stands on the right, where a causal model does
        not look; row by row, so that the float32 copy of the logits is that of one row."""
        import torch

        width = max(map(len, rows))
        ids = torch.tensor([row + [self.bos] * (width - len(row)) for row in rows], device=self.model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.model.device)
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            losses = []
            for row, at, seen, count in zip(rows, logits, ids, scored, strict=True):
                predicting = at[len(row) - 1 - count : len(row) - 1].float()
                loss = torch.nn.functional.cross_entropy(
                    predicting, seen[len(row) - count : len(row)], reduction="none"
                )
                losses.append(loss.double().sum().item())
        return losses

    def _sees_ahead(self) -> bool:
        """A BERT loads as a causal model without a word, looks at what it should predict and finds it very likely."""
        import torch

        ids = torch.tensor([[self.bos, 0, 1], [self.bos, 0, 2]], device=self.model.device)
        with torch.inference_mode():
            one, other = self.model(input_ids=ids, use_cache=False).logits[:, :2].float()
        return not torch.allclose(one, other, rtol=1e-2, atol=1e-2, equal_nan=True)
