"""What vLLM really loaded, looked up in the model itself.

`model_config.quantization` is no proof: with some GPTQ folders vLLM keeps saying "gptq" while every layer is loaded in
full precision. The decoder's linear layers tell: their method, and the bytes of their packed weights over their size.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any, Optional

from vlm_eval.config import QuantConfig

METHODS = {  # class of a layer's quant_method begins with -> how `quant` calls it
    "Unquantized": None,
    "AutoGPTQ": "gptq",
    "GPTQ": "gptq",
    "AutoAWQ": "awq",
    "AWQ": "awq",
}
TOLERANCE = 0.1  # GPU kernels pad their tiles


def check_loaded(llm: Any, quant: QuantConfig) -> dict[str, Any]:
    """Facts about the loaded weights; RuntimeError with the numbers when they are not what `quant` says."""
    found: Counter = Counter()
    weights = 0
    for part_found, part_weights in llm.apply_model(_look):
        found.update(part_found)
        weights += part_weights
    told = ", ".join(f"{n} linear layers {m or 'unquantised'} at {b:g} bits" for (m, b), n in found.items())
    weights_gib = round(weights / 2**30, 4)
    wrong = [kind for kind in found if not _matches(kind, quant)]
    if wrong or not found:
        raise RuntimeError(
            f"quant={quant.name} wants {quant.method or 'unquantised'} {quant.bits} bits; "
            f"loaded: {told or 'no linear layer'}; weights {weights_gib} GiB"
        )
    return {"found": f"{told}, {weights_gib:.3g} GiB", "weights_gib": weights_gib, "bits": quant.bits}


def _matches(kind: tuple[Optional[str], float], quant: QuantConfig) -> bool:
    method, bits = kind
    return method == quant.method and abs(bits - quant.bits) <= TOLERANCE * quant.bits


def _look(model: Any) -> tuple[Counter, int]:
    """(decoder layers by (method, bits a weight), bytes of all weights); runs inside the engine's worker."""
    from vllm.model_executor.layers.linear import LinearBase

    found: Counter = Counter()
    seen: dict[int, int] = {}
    repacked = 0
    for name, layer in model.named_modules():
        for tensor in [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
            seen[tensor.data_ptr() or id(tensor)] = tensor.nbytes
        if not isinstance(layer, LinearBase):
            continue
        size = layer.input_size_per_partition * layer.output_size_per_partition
        packed = getattr(layer, "qweight", None)
        if packed is None and layer.weight.numel() == 0:
            # On a CPU vLLM repacks unquantised weights into a kernel's own memory and leaves an empty tensor.
            repacked += size * layer.weight.element_size()
        if not name.startswith("visual"):  # the vision tower stays unquantised in every published checkpoint
            bits = 8 * (packed.nbytes / size if packed is not None else layer.weight.element_size())
            found[_method(layer), round(bits, 2)] += 1
    return found, sum(seen.values()) + repacked


def _method(layer: Any) -> Optional[str]:
    name = type(layer.quant_method).__name__
    return next((ours for prefix, ours in METHODS.items() if name.startswith(prefix)), name)


def engine_facts(llm: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """How the engine was made and what it says of itself: enough to tell why two runs of one model differ."""
    model = llm.llm_engine.model_config
    text = model.hf_text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    generation = model.try_get_generation_config()
    return {
        "checkpoint_commit": getattr(model.hf_config, "_commit_hash", None),
        "architecture": model.architectures[0],
        "quantization": model.quantization,
        "chat_template_sha256": _sha(_chat_template(llm)),
        "generation_config_sha256": _sha(json.dumps(generation, sort_keys=True, default=str)),
        # keys and values of every layer, 2 bytes each in bfloat16
        "kv_bytes_per_token": 2 * text.num_hidden_layers * text.num_key_value_heads * head * 2,
        "arguments": {k: v for k, v in arguments.items() if k != "model"},
    }


def kv_cache_gib(llm: Any, bytes_per_token: int) -> float:
    """Of all blocks that the engine has allocated, on all its cards together."""
    cache = llm.llm_engine.vllm_config.cache_config
    return cache.num_gpu_blocks * cache.block_size * bytes_per_token / 2**30


def _chat_template(llm: Any) -> str:
    """The template that vLLM renders the chat with: engine.extra's, else the processor's, else the tokenizer's."""
    from vllm.renderers.hf import resolve_chat_template
    from vllm.utils.mistral import is_mistral_tokenizer

    tokenizer, given = llm.get_tokenizer(), getattr(llm, "chat_template", None)
    if is_mistral_tokenizer(tokenizer):  # which has none
        template = given
    else:
        template = resolve_chat_template(tokenizer, given, None, model_config=llm.llm_engine.model_config)
    return template if isinstance(template, str) else json.dumps(template, sort_keys=True)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
