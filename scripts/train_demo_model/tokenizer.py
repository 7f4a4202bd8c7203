"""The demo's tokenizer: byte-level BPE with Qwen2's pre-tokenizer and special tokens, from training texts alone."""

from __future__ import annotations

import random

import chat
import describe
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCABULARY = 2048
SCREENS = 6000
PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = [  # Qwen2-VL's, in its order
    f"<|{name}|>"
    for name in (
        "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end "
        "vision_start vision_end vision_pad image_pad video_pad"
    ).split()
]


def train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZER), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        min_frequency=20,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def texts():
    rng = random.Random("tokenizer")
    for prompt in chat.system_prompts().values():
        yield from [prompt] * 300  # a few tokens for what stands before every answer
    for _ in range(SCREENS):
        screen = describe.describe(rng, "train")
        yield screen.request
        for one in screen.questions:
            yield one["question"]
            yield one["answer"]
    for kind in describe.kinds():
        for labels, _ in kind["rows"]:
            yield from labels
        for buttons in kind["buttons"]:
            yield from buttons
