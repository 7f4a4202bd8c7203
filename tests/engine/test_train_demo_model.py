"""What the training script computes is what transformers and vLLM compute from its checkpoint."""

import random
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
pytestmark = [pytest.mark.engine, pytest.mark.needs("inter", "roboto")]


@pytest.fixture(scope="module", autouse=True)
def scripts():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    sys.path[:0] = [str(SCRIPTS / "train_demo_model"), str(SCRIPTS / "make_demo_screens")]


@pytest.fixture(scope="module")
def exported(scripts, tmp_path_factory):
    """(the small model with random weights, its tokens, the folder it was exported to)."""
    import export
    import tokenizer
    import torch
    from chat import Chat
    from model import Model, Size

    torch.manual_seed(0)
    ours, trained = Model(Size(), 0).eval(), tokenizer.train()
    folder = tmp_path_factory.mktemp("checkpoint")
    export.export(ours.bfloat16().float(), trained, folder)
    return ours, Chat(trained), folder


@pytest.mark.parametrize("device", ["phone", "desktop"])
def test_transformers_sees_the_same_tokens_and_gives_the_same_logits(device, exported):
    import describe
    import draw
    import numpy as np
    import torch
    from chat import system_prompts
    from pictures import as_tensors, grid_of
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    ours, chat, folder = exported
    theirs = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    rng = random.Random(3)
    screen = describe.describe(rng, "val", device=device)
    picture, _ = draw.draw(screen.description, draw.families(Path("/usr/share/fonts")), rng)
    system, question = system_prompts()["vqa"], screen.questions[0]["question"]
    user = [{"type": "image"}, {"type": "text", "text": question}]
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=[prompt], images=[picture], return_tensors="pt")

    row = chat.row(system, [(question, "")], grid_of(device), 700)
    end = row.answered.index(True)
    assert inputs.input_ids[0].tolist() == row.tokens[:end]
    tokens, places, positions, _ = as_tensors([row])
    with torch.no_grad():
        features, _ = ours.see(torch.from_numpy(np.array(picture))[None])
        states = ours.say(features, tokens[:, :end], places[:, :end], positions[:, :, :end])
        mine, expected = (states @ ours.embed.weight.T)[0], theirs(**inputs).logits[0]
    assert expected.std() > 0.01
    torch.testing.assert_close(mine, expected, atol=1e-3, rtol=1e-3)


def test_a_piece_goes_on_where_another_left_off(tmp_path, exported):
    import argparse
    import json

    import train

    _, chat, _ = exported
    chat.tokenizer.save(str(tmp_path / "tokenizer.json"))
    common = dict(tokenizer=tmp_path / "tokenizer.json", fonts=Path("/usr/share/fonts"), total=9.0, batch=4, rate=1e-3)
    common |= dict(workers=0, seed=5, compile=0, check=0)
    first = argparse.Namespace(out=tmp_path / "1", stages="strips:4", resume=None, reading=1, **common)
    train.train(first)
    second = argparse.Namespace(out=tmp_path / "2", stages="strips:2", resume=tmp_path / "1", reading=0, **common)
    train.train(second)
    one, two = (json.loads((tmp_path / n / "state.json").read_text()) for n in "12")
    assert 0 < one["step"] < two["step"] and one["spent"] < two["spent"]
    assert {name for name in train.weights(tmp_path / "2")} == {
        name for name in train.weights(tmp_path / "1") if not name.startswith("reads.")
    }
    train.trained(tmp_path / "2")
