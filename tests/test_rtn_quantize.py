"""The packed checkpoints hold exactly the rounded weights, and rounding is off by at most half a step."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")  # comes with an engine: cpu or gpu

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import rtn_quantize as rtn  # noqa: E402

GROUP = 128


def random_weight(rows: int = 256, columns: int = 512, seed: int = 0) -> "torch.Tensor":
    """bf16 [out, in], of columns as different in size as real ones."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    return (weight * torch.logspace(-3, 0, columns)).to(torch.bfloat16)


def quantize(weight: "torch.Tensor", form: str) -> dict:
    return rtn.quantize_awq(weight, GROUP) if form == "awq" else rtn.quantize_gptq(weight, int(form[4:]), GROUP)


def per_weight(values: "torch.Tensor") -> "torch.Tensor":
    """[groups, out] -> [out, in]"""
    return values.repeat_interleave(GROUP, 0).t()


@pytest.mark.parametrize("bits", [4, 8])
def test_pack_and_unpack_are_inverse(bits):
    values = torch.randint(0, 2**bits, (64, 96), generator=torch.Generator().manual_seed(1))
    assert torch.equal(rtn.unpack_rows(rtn.pack_rows(values, bits), bits), values)
    assert torch.equal(rtn.unpack_columns(rtn.pack_columns(values, bits), bits), values)
    if bits == 4:
        packed = rtn.pack_columns(values, bits, rtn.AWQ_ORDER)
        assert torch.equal(rtn.unpack_columns(packed, bits, rtn.AWQ_ORDER), values)


def test_layout_of_one_word():
    """The layouts written out by hand, so that a mistake made in packing and unpacking alike is seen."""
    ascending = torch.arange(8)
    assert rtn.pack_rows(ascending[:, None], 4).item() == 0x76543210
    assert rtn.pack_columns(ascending[None, :], 4).item() == 0x76543210
    assert rtn.pack_columns(ascending[None, :], 4, rtn.AWQ_ORDER).item() == 0x75316420
    assert rtn.pack_rows(torch.tensor([[1], [2], [3], [4]]), 8).item() == 0x04030201
    assert rtn.pack_rows(torch.full((4, 1), 255), 8).item() == -1  # all 32 bits set


@pytest.mark.parametrize("form", rtn.FORMS)
def test_unpacked_weights_are_the_rounded_ones(form):
    weight = random_weight()
    tensors = quantize(weight, form)
    scales = per_weight(tensors["scales"].float())
    if form == "awq":
        zeros = per_weight(rtn.unpack_columns(tensors["qzeros"], 4, rtn.AWQ_ORDER))
        steps = (torch.round(weight.float() / scales) + zeros).clamp(0, 15) - zeros
    else:
        half = 2 ** (int(form[4:]) - 1)
        steps = torch.round(weight.float() / scales).clamp(-half, half - 1)
    assert torch.equal(rtn.dequantize(tensors, form), steps * scales)


@pytest.mark.parametrize("form", rtn.FORMS)
def test_error_is_at_most_half_a_step(form):
    weight = random_weight(seed=2)
    tensors = quantize(weight, form)
    error = (rtn.dequantize(tensors, form) - weight.float()).abs() / per_weight(tensors["scales"].float())
    # The scale is rounded to bf16 (8 significant bits), which may cut off the group's largest value: up to 15 steps for
    # awq, 7 and 127 for gptq, times 2^-8, on top of half a step; awq's zero point is rounded as well.
    clipped = {"gptq4": 7, "gptq8": 127, "awq": 15}[form] * 2**-8 + (0.5 if form == "awq" else 0)
    inside = error <= 0.5 + 1e-3
    assert error.max() <= 0.5 + clipped
    assert inside.float().mean() > 0.98


@pytest.mark.parametrize("form", rtn.FORMS)
def test_shapes_and_types(form):
    tensors = quantize(random_weight(rows=256, columns=512), form)
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    groups = 512 // GROUP
    expected = {
        "awq": {"qweight": ((512, 32), torch.int32), "qzeros": ((groups, 32), torch.int32)},
        "gptq4": {"qweight": ((64, 256), torch.int32), "qzeros": ((groups, 32), torch.int32)},
        "gptq8": {"qweight": ((128, 256), torch.int32), "qzeros": ((groups, 64), torch.int32)},
    }[form]
    expected["scales"] = ((groups, 256), torch.bfloat16)
    if form != "awq":
        expected["g_idx"] = ((512,), torch.int32)
    assert shapes == expected


def test_zero_weights_stay_zero():
    for form in rtn.FORMS:
        assert not rtn.dequantize(quantize(torch.zeros(64, 256, dtype=torch.bfloat16), form), form).any()


def test_checkpoint_without_decoder_linears_is_refused(tmp_path):
    (tmp_path / "source").mkdir()
    rtn.save_file({"visual.blocks.0.attn.qkv.weight": torch.zeros(8, 8)}, tmp_path / "source" / "model.safetensors")
    (tmp_path / "source" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no decoder linear"):
        rtn.quantize_checkpoint(tmp_path / "source", tmp_path / "packed", "gptq4")


@pytest.mark.parametrize("form", rtn.FORMS)
def test_checkpoint_round_trip(form, tmp_path):
    source, packed, plain = tmp_path / "source", tmp_path / "packed", tmp_path / "plain"
    source.mkdir()
    linear, other = "model.layers.0.self_attn.q_proj", "visual.blocks.0.mlp.fc1"
    tensors = {
        f"{linear}.weight": random_weight(),
        f"{linear}.bias": random_weight(rows=1)[0],
        f"{other}.weight": random_weight(),
    }
    rtn.save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text('{"model_type": "qwen2_vl"}')

    assert rtn.quantize_checkpoint(source, packed, form) == 1
    assert "quantization_config" in (packed / "config.json").read_text()
    rtn.dequantize_checkpoint(packed, plain)
    assert "quantization_config" not in (plain / "config.json").read_text()

    result = rtn.load_file(plain / "model.safetensors")
    assert result.keys() == tensors.keys()
    assert torch.equal(result[f"{other}.weight"], tensors[f"{other}.weight"])
    assert torch.equal(result[f"{linear}.bias"], tensors[f"{linear}.bias"])
    expected = rtn.dequantize(quantize(tensors[f"{linear}.weight"], form), form).to(torch.bfloat16)
    assert torch.equal(result[f"{linear}.weight"], expected)
