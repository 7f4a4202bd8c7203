"""BLEURT and perplexity over a table of answers: the project's way over one text at a time, on one loaded model.

    python benchmarks/text_models.py ANSWERS.csv [--device cuda --full] [--only bleurt] [--rows 40]

ANSWERS.csv has the columns candidate and reference. Weights are random in the real shape, for time does not ask what
they say: BLEURT-20-D12 and ruGPT3small, with --full BLEURT-20 and ruGPT3large. Tokenizers are trained on the table's
own texts, to three or four letters a token. Loading is not timed: it is the same for both.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import torch
from pairs import machine

from vlm_eval.metrics.base import Answered, score_pairs, score_texts
from vlm_eval.rows import Answer, Item

# Layers, width, heads: Pu et al. 2021 for BLEURT (inner width 4 times that), the models' config.json for ruGPT3.
BLEURT = {False: ("BLEURT-20-D12", 12, 1024, 16), True: ("BLEURT-20", 32, 1152, 18)}
GPT = {False: ("ruGPT3small", 12, 768, 12), True: ("ruGPT3large", 24, 1536, 16)}
VOCABULARY = 50_000  # of both, so that perplexity's logits have their real size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--rows", type=int, help="only the first so many")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", choices=("bleurt", "perplexity"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-tokens", type=int, help="instead of the metric's own")
    chosen = parser.parse_args()
    with open(chosen.table, encoding="utf-8", newline="") as table:
        whole = list(csv.DictReader(table))
    rows = whole[: chosen.rows]
    items = {str(n): Item(str(n), str(n), "x", reference=row["reference"]) for n, row in enumerate(rows)}
    answers = [Answer(str(n), 0, str(n), row["candidate"], "stop") for n, row in enumerate(rows)]
    data = Answered(items, answers, [], {})
    corpus = sorted({row[name] for row in whole for name in ("candidate", "reference")})
    card = torch.cuda.get_device_name() if chosen.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    print(f"{machine()}, torch {torch.__version__}, {platform.platform()}, {card}, {chosen.dtype}", flush=True)
    for name, prepare in (("bleurt", bleurt), ("perplexity", perplexity)):
        if chosen.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                measure(chosen.runs, *prepare(data, corpus, Path(folder), chosen))


def measure(
    runs: int, what: str, texts: list[Any], ours: Callable[[], list[float]], one: Callable[[Any], float]
) -> None:
    """`texts`: what `one` takes, one an answer; `ours` gives all their values at once. In turn, `runs` times."""
    print(f"{what}; {len(texts)} texts, {len(set(texts))} distinct", flush=True)
    for text in sorted(set(texts), key=lambda t: len("".join(t)))[-3:]:
        one(text)  # warm
    every, distinct = [], []
    for _ in range(runs):
        began = time.perf_counter()
        batched = ours()
        batched_s = time.perf_counter() - began
        single, first_s, loop_s = [], {}, 0.0
        for text in texts:
            began = time.perf_counter()
            single.append(one(text))
            took = time.perf_counter() - began
            first_s.setdefault(text, took)
            loop_s += took
        distinct_s = sum(first_s.values())
        apart = max(abs(a - b) for a, b in zip(batched, single, strict=True))
        every.append(loop_s / batched_s)
        distinct.append(distinct_s / batched_s)
        print(
            f"  ours {batched_s:.2f} s; one at a time {loop_s:.2f} s, ratio {every[-1]:.2f}; of the distinct ones "
            f"{distinct_s:.2f} s, ratio {distinct[-1]:.2f}; values at most {apart:.1e} apart",
            flush=True,
        )
    print(
        f"  median ratio {statistics.median(every):.2f}, of the distinct ones {statistics.median(distinct):.2f}; "
        "wanted: at least 1.3 on a CPU, 4 on a GPU",
        flush=True,
    )


def settings(chosen: argparse.Namespace) -> dict[str, Any]:
    more = {"batch_tokens": chosen.batch_tokens} if chosen.batch_tokens else {}
    return {"device": chosen.device, "dtype": chosen.dtype, **more}


def sizes(lengths: list[int]) -> str:
    return f"{statistics.mean(lengths):.0f} tokens each, at most {max(lengths)}"


def bleurt(data: Answered, corpus: list[str], folder: Path, chosen: argparse.Namespace):
    from sentencepiece import SentencePieceTrainer

    from vlm_eval.metrics.bleurt import BleurtConfig, BleurtModel
    from vlm_eval.metrics.bleurt_on_transformers5 import import_bleurt

    pairs = [(data.items[a.item_id].reference, a.text) for a in data.answers]
    SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in corpus for line in text.splitlines()]),
        model_prefix=str(folder / "spm"),
        vocab_size=4000,
        hard_vocab_limit=False,
        max_sentence_length=2**20,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        pad_piece="[PAD]",
        unk_piece="[UNK]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        minloglevel=2,
    )
    name, layers, width, heads = BLEURT[chosen.full]
    package = import_bleurt()
    config = package.BleurtConfig(
        vocab_size=VOCABULARY,
        embedding_size=256,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    package.BleurtForSequenceClassification(config).save_pretrained(folder)
    model = BleurtModel(str(folder), BleurtConfig(**settings(chosen)))

    def ids_of(pair: tuple[str, str]) -> tuple[list[int], list[int]]:
        reference, candidate = model.tokenizer.encode(list(pair))
        ids, types, _ = model.row(reference, candidate)
        return ids, types

    def one(pair: tuple[str, str]) -> float:
        with torch.inference_mode():
            ids, types = (torch.tensor([row], device=model.device) for row in ids_of(pair))
            return model.model(input_ids=ids, token_type_ids=types).logits.item()

    def ours() -> list[float]:
        found = score_pairs(data, lambda distinct: model.score([(reference, answer) for answer, reference in distinct]))
        return [columns["bleurt"] for columns in found.values()]

    return f"bleurt, shape of {name}, {sizes([len(ids_of(pair)[0]) for pair in pairs])}", pairs, ours, one


def perplexity(data: Answered, corpus: list[str], folder: Path, chosen: argparse.Namespace):
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from vlm_eval.metrics.perplexity import CausalModel, Perplexity, PerplexityConfig

    texts = [a.text for a in data.answers]
    words = ByteLevelBPETokenizer()
    words.train_from_iterator(corpus, vocab_size=1000, special_tokens=["<s>"], show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, bos_token="<s>").save_pretrained(folder)
    name, layers, width, heads = GPT[chosen.full]
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=2048,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    metric = Perplexity(PerplexityConfig(**settings(chosen)))
    model = CausalModel(str(folder), metric.config)
    lengths = [len(model.tokens(text)) for text in texts]
    if max(lengths) > model.capacity:
        raise SystemExit(
            f"a text of {max(lengths)} tokens: one forward pass cannot hold it, and the loop knows no windows"
        )

    def one(text: str) -> float:
        """Nats a token, as the page that the metric follows does it."""
        with torch.inference_mode():
            ids = torch.tensor([[model.bos, *model.tokens(text)]], device=model.model.device)
            return model.model(input_ids=ids, labels=ids).loss.item()

    def ours() -> list[float]:
        found = score_texts(data, lambda distinct: metric._score_distinct(model, distinct))
        return [columns["perplexity_nll"] / columns["perplexity_tokens"] for columns in found.values()]

    return f"perplexity, shape of {name}, {sizes(lengths)}", texts, ours, one


if __name__ == "__main__":
    main()
