"""Which GPUs a sweep may use, as a stand-in for nvidia-smi tells of them."""

from __future__ import annotations

import pytest

from vlm_eval import devices
from vlm_eval.devices import Card

SMI = """#!/bin/sh
case "$*" in
  *index,uuid,memory.free*)
    echo "0, GPU-aaa, 81000, 81559"
    echo "1, GPU-bbb, [N/A], 40960"
    echo "2, GPU-ccc, [N/A], [N/A]" ;;
  *-L*)
    echo "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaa)"
    echo "  MIG 3g.40gb     Device  0: (UUID: MIG-111)"
    echo "  MIG 1g.10gb+me  Device  1: (UUID: MIG-222)" ;;
  *-i*MIG*) exit 6 ;;
  *memory.total*) echo "NVIDIA H100 80GB HBM3, 81559" ;;
esac
"""
FIRST, SECOND = Card("0", 81000 / 1024, 81559 / 1024), Card("1", 40.0, 40.0)


@pytest.fixture(autouse=True)
def smi(nvidia_smi):
    nvidia_smi(SMI)


@pytest.mark.parametrize(
    "visible, found",
    [
        (None, [FIRST, SECOND]),
        ("1", [SECOND]),
        ("1,0", [SECOND, FIRST]),
        ("GPU-bbb", [SECOND]),
        ("0,7,1", [FIRST]),  # as CUDA does it
        ("", []),
        ("none", []),
        ("-1", []),
        ("MIG-222", [Card("MIG-222", 10.0)]),
        ("MIG-111,MIG-222", [Card("MIG-111", 40.0), Card("MIG-222", 10.0)]),
    ],
)
def test_the_visible_cards_with_what_is_free_of_them(monkeypatch, visible, found):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.cards() == found


def test_a_mig_slice_is_a_device_of_its_own_size(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-111")
    assert devices.find_device() == devices.Device("cuda", "MIG 3g.40gb", 40.0)


def test_no_visible_card_is_said_before_anything_starts(vlm_eval_cli, monkeypatch):
    """With a vLLM that needs one; the machine has cards, and the person has hidden them."""
    from vlm_eval.engines import vllm_check

    monkeypatch.setattr(vllm_check, "version_of", lambda name: "0.24.0" if name == "vllm" else None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ended = vlm_eval_cli("model=demo", "tracking=none", "judge=none")
    assert ended.code == 2
    said = "engine=vllm: this vLLM needs a GPU: CUDA_VISIBLE_DEVICES='' names none that is there"
    assert ended.err == f"vlm-eval: {said}\n"
