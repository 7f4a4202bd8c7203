"""A GPU that others hold is said before anything is loaded. The card is a stand-in for nvidia-smi; on an H100 the same
message was seen (benchmarks/README.md)."""

from __future__ import annotations

import pytest

from .helpers import QUICK

SMI = """#!/bin/sh
case "$*" in
  *index,uuid,memory.free*) printf '0, GPU-a, 4000, 81559\n1, GPU-b, {free}, 81559\n' ;;
  *memory.total*) echo "NVIDIA H100 80GB HBM3, 81559" ;;
  *memory.free*) echo "{free}" ;;
  *compute-apps*) printf '%s' "{apps}" ;;
esac
"""
HELD = "4711, /usr/bin/python3, 61958\n4712, ollama, [N/A]\n"


@pytest.fixture
def card(nvidia_smi):
    """`card(free MiB, compute apps)`: what nvidia-smi says from now on."""
    return lambda free, apps=HELD: nvidia_smi(SMI.format(free=free, apps=apps))


def test_who_holds_the_card_and_what_would_fit(card, vlm_eval_cli, tmp_path):
    card(19148)
    ended = vlm_eval_cli("model=qwen2_vl_2b", "quant=awq", *QUICK, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 2 and not (tmp_path / "run").exists()
    [line] = ended.err.splitlines()
    for said in (
        "quant=awq: needs about ",
        "asks for 71.7 of NVIDIA H100 80GB HBM3's 79.6, and 18.7 are free",
        "process 4711 (python3), 60.5 GiB; process 4712 (ollama)",
        "engine.gpu_memory_utilization=0.22 would fit",
    ):
        assert said in line, line


def test_what_would_fit_does(card, vlm_eval_cli):
    card(19148)
    small = ("model=qwen2_vl_2b", "quant=awq", *QUICK, "sweep.dry_run=true")
    assert vlm_eval_cli(*small, "engine.gpu_memory_utilization=0.22").code == 0
    assert vlm_eval_cli(*small, "engine.gpu_memory_utilization=0.3").code == 2


def test_in_a_sweep_a_share_of_any_card_will_do(card, vlm_eval_cli):
    card(15000)
    sweep = ("-m", *QUICK, "sweep.dry_run=true", "run.seed=0,1")
    assert vlm_eval_cli(*sweep, "model=qwen2_vl_2b", "quant=awq").code == 0
    ended = vlm_eval_cli(*sweep, "model=qwen2_vl_7b", "quant=bf16")
    assert ended.code == 2 and "needs about " in ended.err and "no visible card has more than 14.6 free" in ended.err


def test_too_little_is_left_for_this_model(card, vlm_eval_cli):
    card(9000, apps="")
    ended = vlm_eval_cli("model=qwen2_vl_7b", "quant=bf16", *QUICK)
    assert ended.code == 2 and "a smaller engine.max_model_len, model or quantisation needs less" in ended.err
    assert "held by processes that nvidia-smi does not show here" in ended.err


def test_a_free_card_and_one_that_does_not_say(card, vlm_eval_cli):
    plan = ("-m", "model=qwen2_vl_7b", "quant=bf16", *QUICK, "sweep.dry_run=true", "run.seed=0,1")
    card(80900, apps="")
    assert vlm_eval_cli(*plan).code == 0
    card("[N/A]")
    assert vlm_eval_cli(*plan).code == 0
