"""How much of a screen the model reads: greedy answers to validation screens; values and wordings are new to it."""

from __future__ import annotations

import random

import describe
import draw
import numpy as np
import torch
import torch.nn.functional as F
from chat import END, Chat, system_prompts
from model import Model
from pictures import as_tensors, grid_of

MOST = 110  # tokens of an answer


@torch.no_grad()
def answers(model: Model, chat: Chat, device: str, pictures: list, prompts: list[tuple[str, str]]) -> list[str]:
    """Greedy answers to (system, question) prompts, as many for each picture; without a cache, so for small models."""
    where, length = next(model.parameters()).device, 700
    rows = [chat.row(system, [(question, "")], grid_of(device), length) for system, question in prompts]
    tokens, places, positions, answered = (part.to(where) for part in as_tensors(rows))
    end, at, said = chat.tokenizer.token_to_id(END), answered.int().argmax(1), [[] for _ in rows]
    done, every = torch.zeros(len(rows), dtype=torch.bool, device=where), torch.arange(len(rows), device=where)
    with torch.autocast(where.type, torch.bfloat16):
        features = model.see(torch.from_numpy(np.stack(pictures)).to(where))[0]
        features = features.repeat_interleave(len(prompts) // len(pictures), 0)
        for _ in range(MOST):
            top = min(length, (int(at.max()) // 32 + 1) * 32)
            states = model.say(features, tokens[:, :top], places[:, :top], positions[:, :, :top])
            new = F.linear(states[every, at - 1], model.embed.weight).argmax(-1)
            done |= new == end
            for row in (~done).nonzero().flatten().tolist():
                said[row].append(int(new[row]))
            if done.all():
                break
            tokens[every, at] = new
            at = (at + 1).clamp(max=length - 2)
    return [chat.tokenizer.decode(row) for row in said]


def plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def recall(model: Model, chat: Chat, fonts, count: int, split: str = "val") -> tuple[dict, list[dict]]:
    """Share of facts found by task, and every answer; a quarter of the screens are desktops, each is asked once."""
    rng, said = random.Random(f"recall {split}"), []
    for device, n in (("phone", count * 3 // 4), ("desktop", count // 4)):
        screens = [describe.describe(rng, split, device=device) for _ in range(n)]
        pictures = [np.asarray(draw.draw(screen.description, fonts, rng)[0]) for screen in screens]
        systems, prompts, wanted = system_prompts(), [], []
        for screen in screens:
            one = screen.questions[0]
            prompts += [(systems["screen_annotation"], ""), (systems["vqa"], one["question"])]
            wanted += [("screen_annotation", screen.kind, screen.facts), ("vqa", one["name"], one["facts"])]
        for (_, question), text, (task, kind, facts) in zip(
            prompts, answers(model, chat, device, pictures, prompts), wanted, strict=True
        ):
            found = sum(plain(fact) in plain(text) for fact in facts) / len(facts)
            said.append(
                {"task": task, "kind": kind, "question": question, "text": text, "facts": facts, "found": found}
            )
    tasks = ("screen_annotation", "vqa")
    return {
        task: round(float(np.mean([one["found"] for one in said if one["task"] == task])), 4) for task in tasks
    }, said
