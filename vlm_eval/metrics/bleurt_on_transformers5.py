"""bleurt-pytorch 0.0.1 (2022) on transformers 5, which dropped what it imports and inherits; under 4 nothing is done.

Its tokenizers are not mended: BleurtTokenizer turns every text into [UNK] there, without an error.
"""

from __future__ import annotations

import importlib
import sys
import types
from contextlib import contextmanager
from typing import Any, Iterator

PRUNING = ("find_pruneable_heads_and_indices", "prune_linear_layer")  # of transformers.pytorch_utils
FAST_BERT = "transformers.models.bert.tokenization_bert_fast"


def import_bleurt() -> Any:
    """The module bleurt_pytorch, its model whole; transformers itself is as before when this returns."""
    with _names_gone():
        import bleurt_pytorch
        from bleurt_pytorch.bleurt import modeling_bleurt
    base = modeling_bleurt.BleurtPreTrainedModel
    if not hasattr(base, "get_head_mask"):
        base.get_head_mask = lambda self, head_mask, layers: [None] * layers
    if not hasattr(base, "get_extended_attention_mask"):
        base.get_extended_attention_mask = _extended_attention_mask
    return bleurt_pytorch


@contextmanager
def _names_gone() -> Iterator[None]:
    """Stand-ins for what bleurt_pytorch imports and scoring never calls, while it is imported."""
    from transformers import pytorch_utils

    absent = [name for name in PRUNING if not hasattr(pytorch_utils, name)]
    for name in absent:
        setattr(pytorch_utils, name, None)
    stand_in = None
    try:
        importlib.import_module(FAST_BERT)
    except ModuleNotFoundError:
        stand_in = types.ModuleType(FAST_BERT)
        stand_in.BertTokenizerFast = type("BertTokenizerFast", (), {})
        sys.modules[FAST_BERT] = stand_in
    try:
        yield
    finally:
        for name in absent:
            delattr(pytorch_utils, name)
        if stand_in:
            del sys.modules[FAST_BERT]


def _extended_attention_mask(self, attention_mask, input_shape):
    """(batch, 1, 1, length), to be added to attention scores: 0 where there is a token, the least number at padding."""
    import torch

    mask = attention_mask[:, None, None, :].to(self.dtype)
    return (1.0 - mask) * torch.finfo(self.dtype).min
