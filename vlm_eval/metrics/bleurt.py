"""BLEURT (Sellam et al. 2020, Pu et al. 2021): a trained model says how well an answer means what the reference means.

The model is bleurt-pytorch's. Texts become tokens here, with the checkpoint's own vocabulary and as the original
does it (google-research/bleurt, encoding.py): bleurt-pytorch's tokenizers do not survive transformers 5.
"""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

from vlm_eval import checkpoints
from vlm_eval.errors import BadInput
from vlm_eval.metrics import text_checkpoints
from vlm_eval.metrics.base import Answered, Columns, Key, column, score_pairs
from vlm_eval.rows import Score
from vlm_eval.statistics.intervals import named_mean, named_share

NEEDS = ("config.json", "spm.model|vocab.txt")
DTYPES = ("float32", "bfloat16", "float16")
MOST_UNKNOWN = 0.1  # of the references' tokens; BLEURT-20 knows every letter of a hundred languages


@dataclass
class BleurtConfig:
    _target_: str = "???"
    checkpoint: str = "lucadiliello/BLEURT-20"
    revision: Optional[str] = None
    batch_tokens: int = 8192
    dtype: str = "float32"
    device: Optional[str] = None
    use_safetensors: bool = True


class Bleurt:
    """Columns of an answer: `bleurt` (about 0 to 1, not bounded) and `bleurt_truncated` (the pair was too long for the
    model, which saw the start of both texts). Numbers of other checkpoints cannot be compared."""

    def __init__(self, config: BleurtConfig):
        if config.batch_tokens < 1:
            raise BadInput(f"metrics.bleurt.batch_tokens={config.batch_tokens}: at least 1")
        if config.dtype not in DTYPES:
            raise BadInput(f"metrics.bleurt.dtype={config.dtype}: it is one of {', '.join(DTYPES)}")
        self.config = config
        self.hash: Optional[str] = None

    def card_gib(self) -> float:
        return text_checkpoints.card_gib(self.config.device)

    def check(self) -> Optional[str]:
        if not all(map(importlib.util.find_spec, ("bleurt_pytorch", "sentencepiece"))):
            return "bleurt-pytorch and sentencepiece are not installed: pip install 'vlm-eval[bleurt]'"
        name, needs = self.config.checkpoint, (*NEEDS, text_checkpoints.weights(self.config.use_safetensors))
        why = text_checkpoints.problem(name, needs, self.config.revision)
        if not why and checkpoints.is_folder(name):
            kind = checkpoints.read_config(str(Path(name).expanduser())).get("model_type")
            if kind != "bleurt":
                raise BadInput(f"{name}: a checkpoint of a {kind} model, not of a bleurt one")
        return why

    def score(self, data: Answered) -> dict[Key, Columns | str]:
        return score_pairs(data, self._score_distinct)

    def _score_distinct(self, pairs: list[tuple[str, str]]) -> list[Columns | str]:
        found = self.check() or text_checkpoints.attempt(self.config.checkpoint, lambda: self._with_model(pairs))
        return [found] * len(pairs) if isinstance(found, str) else found

    def _with_model(self, pairs: list[tuple[str, str]]) -> list[Columns | str]:
        folder = text_checkpoints.fetch(self.config.checkpoint, self.config.revision)
        self.hash = text_checkpoints.fingerprint(folder)
        return BleurtModel(folder, self.config).score([(reference, answer) for answer, reference in pairs])

    def facts(self) -> Mapping[str, str | int | None]:
        return {"checkpoint_sha256": self.hash}

    def summarise(self, data: Answered, scores: Sequence[Score]) -> dict[str, float]:
        return {
            **named_mean("bleurt/mean", column(scores, data, "bleurt")),
            **named_share("bleurt/truncated_rate", column(scores, data, "bleurt_truncated")),
        }


class BleurtModel:
    """A loaded checkpoint. BadInput for one whose scores would mean nothing."""

    def __init__(self, folder: str, config: BleurtConfig):
        import torch

        from vlm_eval.metrics.bleurt_on_transformers5 import import_bleurt

        self.batch_tokens = config.batch_tokens
        self.device = config.device or text_checkpoints.device()
        self.tokenizer = read_tokenizer(folder)
        loaded, info = import_bleurt().BleurtForSequenceClassification.from_pretrained(
            folder, output_loading_info=True, use_safetensors=config.use_safetensors or None
        )
        if missing := sorted(info["missing_keys"]):  # they would be random, and so the scores
            raise BadInput(f"{len(missing)} tensors are not in its weights, {missing[0]} among them")
        self.model = loaded.to(self.device, getattr(torch, config.dtype)).eval()
        self.vocabulary: int = loaded.config.vocab_size
        self.longest: int = loaded.config.max_position_embeddings  # 512, or 128 as the checkpoint's name says

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Columns | str]:
        """Columns or a reason for each (reference, candidate)."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        tokens = dict(zip(texts, self.tokenizer.encode(texts), strict=True))
        self._refuse_unknown([tokens[reference] for reference in dict.fromkeys(r for r, _ in pairs)])
        rows = [self.row(tokens[reference], tokens[candidate]) for reference, candidate in pairs]
        if (most := max(max(ids) for ids, _, _ in rows)) >= self.vocabulary:  # on a GPU it would end the whole process
            raise BadInput(f"its tokenizer gives token {most}, and its model knows {self.vocabulary}")
        found = dict(self._forward([(ids, types) for ids, types, _ in rows]))
        return [
            {"bleurt": found[number], "bleurt_truncated": truncated}
            if math.isfinite(found[number])
            else f"the model's score is {found[number]}"
            for number, (_, _, truncated) in enumerate(rows)
        ]

    def _refuse_unknown(self, references: list[list[int]]) -> None:
        """Judged by the references alone: what a model under test babbles must not cost it its score."""
        count = sum(map(len, references))
        share = sum(ids.count(self.tokenizer.unk) for ids in references) / count if count else 0.0
        if share > MOST_UNKNOWN:
            raise BadInput(f"its tokenizer turns {share:.0%} of the references' tokens into [UNK]")

    def row(self, reference: list[int], candidate: list[int]) -> tuple[list[int], list[int], bool]:
        """[CLS] reference [SEP] candidate [SEP], the segments' numbers, and whether something was cut off."""
        reference, candidate = list(reference), list(candidate)
        truncated = len(reference) + len(candidate) > self.longest - 3
        while len(reference) + len(candidate) > self.longest - 3:
            (reference if len(reference) > len(candidate) else candidate).pop()
        cls, sep = self.tokenizer.cls, self.tokenizer.sep
        ids = [cls, *reference, sep, *candidate, sep]
        return ids, [0] * (len(reference) + 2) + [1] * (len(candidate) + 1), truncated

    def _forward(self, rows: list[tuple[list[int], list[int]]]) -> Iterator[tuple[int, float]]:
        import torch

        with torch.inference_mode():
            for batch in text_checkpoints.batches_by_length([len(ids) for ids, _ in rows], self.batch_tokens):
                width = len(rows[batch[-1]][0])
                ids, types, mask = (torch.zeros(len(batch), width, dtype=torch.long) for _ in range(3))
                for line, number in enumerate(batch):
                    length = len(rows[number][0])
                    ids[line, :length], types[line, :length] = map(torch.tensor, rows[number])
                    mask[line, :length] = 1
                logits = self.model(
                    input_ids=ids.to(self.device),
                    token_type_ids=types.to(self.device),
                    attention_mask=mask.to(self.device),
                    # Its buffer of them is not always saved, and transformers 5 leaves it unset then.
                    position_ids=torch.arange(width, device=self.device)[None],
                ).logits
                yield from zip(batch, logits[:, 0].float().tolist())


@dataclass(frozen=True)
class Tokenizer:
    encode: Callable[[list[str]], list[list[int]]]  # without special tokens
    cls: int
    sep: int
    unk: int


def read_tokenizer(folder: str) -> Tokenizer:
    """SentencePiece for the BLEURT-20 family (spm.model), WordPiece for the English ones before it (vocab.txt)."""
    spm = Path(folder) / "spm.model"
    return _sentencepiece(spm) if spm.is_file() else _wordpiece(Path(folder) / "vocab.txt")


def _sentencepiece(file: Path) -> Tokenizer:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(file))
    cls, sep = (pieces.piece_to_id(piece) for piece in ("[CLS]", "[SEP]"))
    if pieces.unk_id() in (cls, sep):
        raise BadInput(f"{file.name} has no [CLS] and [SEP]: not a BLEURT's vocabulary")
    return Tokenizer(lambda t: pieces.encode(_clean(t)), cls, sep, pieces.unk_id())


def _wordpiece(file: Path) -> Tokenizer:
    from tokenizers import BertWordPieceTokenizer

    settings: dict[str, Any] = {}
    if (more := file.with_name("tokenizer_config.json")).is_file():
        settings = json.loads(more.read_text(encoding="utf-8"))
    words = BertWordPieceTokenizer.from_file(str(file), lowercase=settings.get("do_lower_case", True))
    special = [words.token_to_id(token) for token in ("[CLS]", "[SEP]", "[UNK]")]
    if None in special:
        raise BadInput(f"{file.name} lacks [CLS], [SEP] or [UNK]: not a BLEURT's vocabulary")

    def encode(texts: list[str]) -> list[list[int]]:
        return [row.ids for row in words.encode_batch(_clean(texts), add_special_tokens=False)]

    return Tokenizer(encode, *special)


def _clean(texts: list[str]) -> list[str]:
    """JSON can hold half of a UTF-16 pair, which no tokenizer takes."""
    return [text.encode("utf-8", "replace").decode() for text in texts]
