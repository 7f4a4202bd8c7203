"""Quantise a Qwen2-VL-like checkpoint with gptqmodel; scripts/quantize runs it in an environment of its own.

Only the linears of the language model's layers are quantised, in groups of 128 of their inputs; the vision tower,
embeddings and head stay as they are. GPTQ: Frantar et al., arXiv 2210.17323; AWQ: Lin et al., arXiv 2306.00978.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "4")  # by default 1 on a machine of 2 cores, and then it cannot load
PROMPTS = Path(__file__).resolve().parents[1] / "conf" / "task" / "prompts"
FORMS = {
    "gptq8": {"bits": 8, "sym": True, "desc_act": False, "act_group_aware": False},
    "gptq4": {"bits": 4, "sym": True, "desc_act": False, "act_group_aware": False},
    "awq": {"bits": 4, "sym": False, "quant_method": "awq", "format": "gemm"},
}
# gptqmodel writes these anew; the source's are what the model was trained with.
KEPT = ("tokenizer.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json",
        "chat_template.jinja", "chat_template.json", "generation_config.json", "vocab.json", "merges.txt")  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/quantize", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="bf16 checkpoint, a folder")
    parser.add_argument("target", type=Path, help="folder to write, must not be there")
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("--calibration", type=Path, required=True, help="folder with items.csv and images/")
    parser.add_argument("--items", type=int, default=128, help="how many of its items")
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument(
        "--device",
        default="cpu",
        help="cpu; cuda:0 where this environment has a CUDA torch, which scripts/quantize does not install",
    )
    args = parser.parse_args()
    if not (args.source / "config.json").is_file():
        parser.error(f"{args.source}: no config.json there")
    if args.target.exists():
        parser.error(f"{args.target} is there already")
    if not (args.calibration / "items.csv").is_file():
        parser.error(f"{args.calibration}: no items.csv there")
    return args


def conversations(folder: Path, count: int) -> list[list[dict]]:
    """The items as the tasks ask them, with their references as answers: those with a question as VQA."""
    systems = {task: (PROMPTS / f"{task}.ru.txt").read_text("utf-8").strip() for task in ("screen_annotation", "vqa")}
    with (folder / "items.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:count]
    return [
        [
            {"role": "system", "content": [text(systems["vqa" if row.get("question") else "screen_annotation"])]},
            {"role": "user", "content": [picture(folder, row), text(row.get("question") or "")]},
            {"role": "assistant", "content": [text(row.get("reference") or "")]},
        ]
        for row in rows
    ]


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def picture(folder: Path, row: dict) -> dict:
    return {"type": "image", "image": str((folder / "images" / row["image"]).resolve())}


def quantize(source: Path, target: Path, form: str, data: list, group: int, device: str) -> None:
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(group_size=group, device=device, offload_to_disk=False, **FORMS[form])
    model = GPTQModel.load(str(source), config)
    model.quantize(data, batch_size=1)
    model.save(str(target))


def sha256(files: list[Path]) -> str:
    """Of the files' contents, one after the other: a checkpoint may lie in several."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()


def main() -> None:
    args = arguments()
    args.source, args.target = args.source.resolve(), args.target.resolve()
    data = conversations(args.calibration, args.items)
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # gptqmodel leaves logs where it stands
        quantize(args.source, args.target, args.form, data, args.group, args.device)
    for name in KEPT:
        if (args.source / name).is_file():
            shutil.copyfile(args.source / name, args.target / name)
    for file in args.target.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors leaves it readable to its owner alone
    import gptqmodel

    made = {
        "form": args.form,
        "gptqmodel": gptqmodel.__version__,
        "group": args.group,
        "calibration_items": len(data),
        "calibration_sha256": sha256([args.calibration / "items.csv"]),
        "source_sha256": sha256(sorted(args.source.glob("*.safetensors"))),
    }
    (args.target / "made_by.json").write_text(json.dumps(made, indent=1) + "\n")
    print(f"{args.target}: {args.form}, calibrated on {len(data)} items", file=sys.stderr)


if __name__ == "__main__":
    main()
