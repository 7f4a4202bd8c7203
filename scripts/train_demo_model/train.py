"""The training loop: stages of so many seconds, a log line every hundred steps, validation every minute."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path

import draw
import torch
import torch.nn.functional as F
import validate
from chat import Chat
from model import Model, Size
from pictures import CLASSES, ROWS, Pictures, soften
from tokenizers import Tokenizer

WARM_UP = {"first": 300, "resumed": 100}  # steps; each piece starts with new moments
LOWEST = 0.02  # of the highest rate, at the end
VALIDATE_EVERY_S, SCREENS = 60, 64
HALVES = ("weights0.pt", "weights1.pt")  # two files, each small enough to travel: all that a later piece goes on from


def losses(run, embedding, batch) -> dict[str, torch.Tensor]:
    """Of the answers' tokens, and with a reading head of which character each cell holds: loss and accuracy."""
    pictures, held, tokens, places, positions, answered = batch
    with torch.autocast(pictures.device.type, torch.bfloat16):
        states, read = run(pictures, tokens, places, positions)
        logits = F.linear(states[:, :-1], embedding)
    target = tokens[:, 1:].masked_fill(~answered[:, 1:], -100)
    out = {"loss": F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=-100)}
    with torch.no_grad():
        known = target != -100
        out["token_accuracy"] = (logits.argmax(-1) == target)[known].float().mean()
    if read is not None:
        held = held.flatten().long()
        read = read.float().view(len(held), -1)
        each, there = F.cross_entropy(read, held, reduction="none"), held > 0
        out["reading_loss"] = each[there].mean() + 0.3 * each[~there].mean()
        out["character_accuracy"] = (read.argmax(-1) == held)[there].float().mean().detach()
    return out


def train(args) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(args.seed)
    chat, fonts = Chat(Tokenizer.from_file(str(args.tokenizer))), draw.families(args.fonts)
    model = Model(Size(), len(CLASSES) + 1 if args.reading else 0).to(device)
    step, spent = resume(args.resume, model) if args.resume else (0, 0.0)
    begun_at, warm_up = step, WARM_UP["resumed" if args.resume else "first"]
    matrices = [part for part in model.parameters() if part.ndim > 1]
    rest = [part for part in model.parameters() if part.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98), fused=device == "cuda")
    run = torch.compile(model) if args.compile else model
    validated = spent
    if args.resume and not (args.out / "log.jsonl").exists():
        shutil.copyfile(args.resume / "log.jsonl", args.out / "log.jsonl")  # the pieces' log is one
    with (args.out / "log.jsonl").open("a", encoding="utf-8") as log:

        def note(**row):
            log.write(json.dumps(row, ensure_ascii=False) + "\n")
            log.flush()
            print(row, flush=True)

        parameters = sum(part.numel() for name, part in model.named_parameters() if "reads" not in name)
        note(piece=args.stages, step=step, s=round(spent, 1), seed=args.seed, batch=args.batch, rate=args.rate,
             total=args.total, parameters=parameters, torch=torch.__version__, fonts=[Path(f[0]).name for f in fonts],
             device=torch.cuda.get_device_name() if device == "cuda" else "cpu")  # fmt: skip
        for stage, seconds in ((name, float(s)) for name, s in (part.split(":") for part in args.stages.split(","))):
            batch = args.batch // ROWS[stage]
            pictures = Pictures(stage, f"{args.seed} {stage} {step}", batch, chat, args.fonts)
            loader = torch.utils.data.DataLoader(
                pictures,
                batch_size=None,
                num_workers=args.workers,
                pin_memory=device == "cuda",
                prefetch_factor=3 if args.workers else None,
            )
            begun, waited, first = time.time(), 0.0, step
            drawn = iter(loader)
            while (used := time.time() - begun) < seconds:
                asked = time.time()
                tensors = [part.to(device, non_blocking=True) for part in next(drawn)]
                waited += time.time() - asked
                tensors[0] = soften(tensors[0])
                done = min(1.0, (spent + used) / args.total)
                falling = max(LOWEST, 0.5 * (1 + math.cos(math.pi * done)))
                for group in optimizer.param_groups:
                    group["lr"] = args.rate * min(1, (step + 1 - begun_at) / warm_up) * falling
                found = losses(run, model.embed.weight, tensors)
                (found["loss"] + found.get("reading_loss", 0)).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
                now = spent + time.time() - begun
                if step % 100 == 0 or device == "cpu":
                    rounded = {name: round(value.item(), 4) for name, value in found.items()}
                    elapsed = now - spent
                    note(step=step, stage=stage, s=round(now, 1), **rounded, waited=round(waited / elapsed, 3),
                         pictures_per_s=round((step - first) * batch / elapsed))  # fmt: skip
                if stage == "screens" and now - validated > VALIDATE_EVERY_S:
                    validated = now
                    note(step=step, s=round(now, 1), validation_recall=validate.recall(model, chat, fonts, SCREENS)[0])
            spent += time.time() - begun
            del drawn, loader
        save(model, args.out)
        (args.out / "state.json").write_text(json.dumps({"step": step, "spent": spent}))
        if not args.check:
            return
        found, said = validate.recall(model, chat, fonts, args.check)
        note(step=step, s=round(spent, 1), validation_recall=found, screens=args.check)
        (args.out / "answers.json").write_text(json.dumps(said, ensure_ascii=False, indent=0), encoding="utf-8")


def resume(folder: Path, model: Model) -> tuple[int, float]:
    """Load what another piece left; its steps and seconds so far. Without a reading head its weights are left out."""
    kept = weights(folder)
    if model.reads is None:
        kept = {name: part for name, part in kept.items() if not name.startswith("reads.")}
    model.load_state_dict(kept)
    state = json.loads((folder / "state.json").read_text())
    return state["step"], state["spent"]


def save(model: Model, out: Path) -> None:
    kept = [(name, part.bfloat16().cpu()) for name, part in model.state_dict().items()]
    for place, name in enumerate(HALVES):
        torch.save(dict(kept[place :: len(HALVES)]), out / name)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: part.float() for half in HALVES for name, part in torch.load(folder / half).items()}


def trained(folder: Path) -> Model:
    """The model as it is exported, without reading head."""
    model = Model(Size(), 0)
    resume(folder, model)
    return model.eval()
