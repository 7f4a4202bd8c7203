"""Qwen2-VL's architecture, small, in plain torch for fast training; `hf_state` names the weights as transformers does.

Source: Qwen2-VL (arXiv 2409.12191) and transformers' modeling_qwen2_vl.py, which tests hold it against. Batches hold
pictures of one size, so attention in the vision tower needs no mask and everything compiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Size:
    vocabulary: int = 2048
    vision_width: int = 256
    vision_depth: int = 4
    vision_heads: int = 4
    vision_ratio: int = 4
    hidden: int = 256  # in and out features: multiples of 32 (CPU kernels) and of the group size 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    inner: int = 768
    rope_theta: float = 10000.0
    mrope: tuple[int, int, int] = (8, 12, 12)


PATCH, MERGE, TEMPORAL = 14, 2, 2
EPSILON = 1e-6


def turn(x, cos, sin):
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return (x * cos + turned * sin).to(x.dtype)


class VisionBlock(nn.Module):
    def __init__(self, size: Size):
        super().__init__()
        width, self.heads = size.vision_width, size.vision_heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPSILON), nn.LayerNorm(width, eps=EPSILON)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, size.vision_ratio * width), nn.Linear(size.vision_ratio * width, width)

    def forward(self, x, cos, sin):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v)
        x = x + self.proj(seen.transpose(1, 2).reshape(batch, length, width))
        inner = self.fc1(self.norm2(x))
        return x + self.fc2(inner * torch.sigmoid(1.702 * inner))  # quick GELU


class Layer(nn.Module):
    def __init__(self, size: Size):
        super().__init__()
        self.size = size
        hidden, head = size.hidden, size.hidden // size.heads
        self.norm1, self.norm2 = nn.RMSNorm(hidden, eps=EPSILON), nn.RMSNorm(hidden, eps=EPSILON)
        self.q, self.o = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden, bias=False)
        self.k, self.v = nn.Linear(hidden, size.kv_heads * head), nn.Linear(hidden, size.kv_heads * head)
        self.gate, self.up = nn.Linear(hidden, size.inner, bias=False), nn.Linear(hidden, size.inner, bias=False)
        self.down = nn.Linear(size.inner, hidden, bias=False)

    def forward(self, x, cos, sin):
        batch, length, hidden = x.shape
        h, shared = self.norm1(x), self.size.heads // self.size.kv_heads
        q, k, v = (
            part.view(batch, length, -1, hidden // self.size.heads).transpose(1, 2)
            for part in (self.q(h), self.k(h), self.v(h))
        )
        q, k = turn(q, cos, sin), turn(k, cos, sin).repeat_interleave(shared, 1)
        seen = F.scaled_dot_product_attention(q, k, v.repeat_interleave(shared, 1), is_causal=True)
        x = x + self.o(seen.transpose(1, 2).reshape(batch, length, hidden))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    """`characters`: how many the training-only reading head tells apart, two a patch; 0 leaves the head out."""

    def __init__(self, size: Size, characters: int):
        super().__init__()
        self.size, width = size, size.vision_width
        self.patches = nn.Linear(3 * PATCH * PATCH, width, bias=False)
        self.blocks = nn.ModuleList(VisionBlock(size) for _ in range(size.vision_depth))
        self.ln_q = nn.LayerNorm(width, eps=EPSILON)
        self.merge1, self.merge2 = nn.Linear(4 * width, 4 * width), nn.Linear(4 * width, size.hidden)
        self.embed = nn.Embedding(size.vocabulary, size.hidden)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.hidden, eps=EPSILON)
        self.reads = nn.Linear(width, 2 * characters) if characters else None
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def see(self, images):
        """Pictures (B, H, W, 3), 0..255 -> features (B, H/28 * W/28, hidden) and characters (B, patches, 2 * C)."""
        batch, height, width, _ = images.shape
        rows, columns, device = height // 28, width // 28, images.device
        x = (images.float() / 127.5 - 1).view(batch, rows, 2, 14, columns, 2, 14, 3)
        x = x.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(batch, rows * columns * 4, -1)
        down = torch.arange(rows * 2, device=device).view(rows, 1, 2, 1).expand(rows, columns, 2, 2).reshape(-1)
        along = torch.arange(columns * 2, device=device).view(1, columns, 1, 2).expand(rows, columns, 2, 2).reshape(-1)
        quarter = self.size.vision_width // self.size.vision_heads // 4
        rates = 10000.0 ** (-torch.arange(quarter, device=device).float() / quarter)
        angles = torch.cat((down[:, None] * rates, along[:, None] * rates), -1).repeat(1, 2)
        cos, sin = angles.cos(), angles.sin()
        x = self.patches(x)
        for block in self.blocks:
            x = block(x, cos, sin)
        read = self.reads(x) if self.reads is not None else None
        return self.merge2(F.gelu(self.merge1(self.ln_q(x).reshape(batch, rows * columns, -1)))), read

    def say(self, features, tokens, places, positions):
        """Hidden states (B, L, hidden); `features` (B, F, hidden).

        `places` (B, L): which feature stands here, -1 for text; `positions` (3, B, L): time, row and column.
        """
        here = features.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, features.shape[-1]))
        x = torch.where((places >= 0)[..., None], here.float(), self.embed(tokens).float())
        half = self.size.hidden // self.size.heads // 2
        rates = self.size.rope_theta ** (-torch.arange(half, device=x.device).float() / half)
        angles = positions.float()[..., None] * rates
        angles = torch.cat([part[i] for i, part in enumerate(angles.split(self.size.mrope, -1))], -1)
        angles = torch.cat((angles, angles), -1)[:, None]
        cos, sin = angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)

    def forward(self, images, tokens, places, positions):
        """Hidden states of all rows of tokens, so many for each picture, and the characters' logits."""
        features, read = self.see(images)
        return self.say(features.repeat_interleave(len(tokens) // len(images), 0), tokens, places, positions), read


def hf_state(model: Model) -> dict[str, torch.Tensor]:
    """The weights under transformers' names (Qwen2VLForConditionalGeneration), without the reading head."""
    vision, text, width = "model.visual", "model.language_model", model.size.vision_width
    patches = model.patches.weight.view(width, 3, 1, PATCH, PATCH)
    # A picture stands for two equal frames: half the weight on each.
    out = {f"{vision}.patch_embed.proj.weight": (patches / TEMPORAL).repeat(1, 1, TEMPORAL, 1, 1)}
    modules = {
        f"{vision}.merger.ln_q": model.ln_q,
        f"{vision}.merger.mlp.0": model.merge1,
        f"{vision}.merger.mlp.2": model.merge2,
        f"{text}.embed_tokens": model.embed,
        f"{text}.norm": model.norm,
    }
    for i, block in enumerate(model.blocks):
        here = f"{vision}.blocks.{i}"
        names = {
            "norm1": "norm1",
            "norm2": "norm2",
            "qkv": "attn.qkv",
            "proj": "attn.proj",
            "fc1": "mlp.fc1",
            "fc2": "mlp.fc2",
        }
        modules |= {f"{here}.{theirs}": getattr(block, ours) for ours, theirs in names.items()}
    for i, layer in enumerate(model.layers):
        here = f"{text}.layers.{i}"
        names = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
        names |= {name: f"self_attn.{name}_proj" for name in "qkvo"} | {
            name: f"mlp.{name}_proj" for name in ("gate", "up", "down")
        }
        modules |= {f"{here}.{theirs}": getattr(layer, ours) for ours, theirs in names.items()}
    for name, module in modules.items():
        out |= {f"{name}.{part}": value for part, value in module.state_dict().items()}
    return {name: value.detach().contiguous() for name, value in out.items()}
