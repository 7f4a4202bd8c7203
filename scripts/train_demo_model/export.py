"""Write the trained weights as a checkpoint that transformers and vLLM load, with tokenizer and image processor."""

from __future__ import annotations

from pathlib import Path

import torch
from chat import TEMPLATE
from model import Model, Size, hf_state
from tokenizer import SPECIAL
from tokenizers import Tokenizer

CONTEXT = 8192
MOST_PIXELS = 336 * 728  # a phone's screen at one pixel a CSS pixel; a desktop's 560 x 420 is less


def wrap(tokenizer: Tokenizer):
    from transformers import Qwen2TokenizerFast

    wrapped = Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        additional_special_tokens=[token for token in SPECIAL if token != "<|endoftext|>"],
        model_max_length=CONTEXT,
    )
    wrapped._tokenizer = tokenizer  # some transformers versions rebuild it from the vocabulary, without our pattern
    wrapped.chat_template = TEMPLATE
    return wrapped


def config(size: Size, ids: dict[str, int]):
    from transformers import Qwen2VLConfig

    return Qwen2VLConfig(
        text_config=dict(
            vocab_size=size.vocabulary,
            hidden_size=size.hidden,
            intermediate_size=size.inner,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads,
            max_position_embeddings=CONTEXT,
            rope_theta=size.rope_theta,
            rope_scaling={"type": "mrope", "mrope_section": list(size.mrope)},
            rms_norm_eps=1e-6,
            bos_token_id=ids["<|endoftext|>"],
            eos_token_id=ids["<|im_end|>"],
            tie_word_embeddings=True,
        ),
        vision_config=dict(
            depth=size.vision_depth,
            embed_dim=size.vision_width,
            hidden_size=size.hidden,
            num_heads=size.vision_heads,
            mlp_ratio=size.vision_ratio,
            patch_size=14,
            spatial_merge_size=2,
            temporal_patch_size=2,
        ),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def export(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """The bf16 checkpoint. ValueError where transformers' model has weights of another name or shape."""
    from transformers import (
        GenerationConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    wrapped = wrap(tokenizer)
    ids = {token: wrapped.convert_tokens_to_ids(token) for token in SPECIAL}
    theirs = Qwen2VLForConditionalGeneration(config(model.size, ids))
    missing, unknown = theirs.load_state_dict(hf_state(model), strict=False)
    if unknown or set(missing) - {"lm_head.weight"}:  # tied to the embeddings
        raise ValueError(f"transformers' Qwen2-VL has other weights: missing {missing}, unknown {unknown}")
    theirs = theirs.to(torch.bfloat16)
    theirs.generation_config = GenerationConfig(
        bos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]],
        do_sample=False,
    )
    theirs.save_pretrained(folder)
    pixels = {"shortest_edge": 4 * 28 * 28, "longest_edge": MOST_PIXELS}
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels, **half),
        video_processor=Qwen2VLVideoProcessor(size=pixels, **half),
        tokenizer=wrapped,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    wrapped.save_pretrained(folder)
