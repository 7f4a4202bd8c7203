"""BLEURT with a checkpoint made here: the real model class and loading code, two layers, random weights."""

from __future__ import annotations

import http.server
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm_eval.errors import BadInput
from vlm_eval.metrics.bleurt import Bleurt, BleurtConfig, read_tokenizer
from vlm_eval.metrics.bleurt_on_transformers5 import import_bleurt
from vlm_eval.metrics.text_checkpoints import batches_by_length, fingerprint, problem

from .data import answered, as_scores, needs_recorded, recorded_rows

pytestmark = pytest.mark.skipif(not find_spec("bleurt_pytorch"), reason="vlm-eval[bleurt] is not installed")

WORDS = """оплата карта не прошла ошибка экран кнопка настройки приложение банк перевод лимит код смс номер телефон вход
пароль сервер подключение попробуйте нажмите обновите ещё раз позже откройте закройте проверьте баланс счёт""".split()
LONGEST = 64  # the tiny models' max_position_embeddings


def russian(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count)).capitalize() + "."


def make_model(folder: Path, vocab_size: int, **more) -> None:
    import torch

    bleurt = import_bleurt()
    torch.manual_seed(0)
    config = bleurt.BleurtConfig(
        vocab_size=vocab_size,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=LONGEST,
        initializer_range=0.4,  # so that scores differ from text to text
        **more,
    )
    bleurt.BleurtForSequenceClassification(config).eval().save_pretrained(folder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """As BLEURT-20's folder: config.json, weights, spm.model with the special tokens as pieces of its own."""
    from sentencepiece import SentencePieceTrainer

    folder = tmp_path_factory.mktemp("bleurt")
    SentencePieceTrainer.train(
        sentence_iterator=iter([russian(12, seed) for seed in range(300)]),
        model_prefix=str(folder / "spm"),
        vocab_size=120,
        hard_vocab_limit=False,
        num_threads=1,
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
    (folder / "spm.vocab").unlink()
    make_model(folder, vocab_size=200)
    return folder


@pytest.fixture(scope="session")
def english_checkpoint(tmp_path_factory) -> Path:
    """As bleurt-tiny-128's: WordPiece in lower case without a Cyrillic letter."""
    folder = tmp_path_factory.mktemp("bleurt_english")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!", "payment", *letters, *(f"##{x}" for x in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    make_model(folder, vocab_size=len(words))
    return folder


@pytest.fixture
def copy(checkpoint, tmp_path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "copy")


def metric(folder, **more) -> Bleurt:
    return Bleurt(BleurtConfig(checkpoint=str(folder), device="cpu", **more))


def scores_of(folder, pairs, **more):
    """[(answer, reference)] -> what score() gave for each, in order."""
    return list(metric(folder, **more).score(answered([a for a, _ in pairs], [r for _, r in pairs])).values())


def some_pairs(count: int) -> list[tuple[str, str]]:
    return [(russian(1 + n % 23, n), russian(1 + n % 7, 1000 + n)) for n in range(count)]


# ----------------------------------------------------------------------------------------------------------- the scores


def by_hand(folder: Path, answer: str, reference: str) -> float:
    """One pair through the weights, written from the paper's figure and BERT's: no batch, no padding, no mask."""
    import torch
    from safetensors.torch import load_file
    from sentencepiece import SentencePieceProcessor

    w = load_file(folder / "model.safetensors")
    pieces = SentencePieceProcessor(model_file=str(folder / "spm.model"))
    a, b = pieces.encode(reference), pieces.encode(answer)
    while len(a) + len(b) + 3 > LONGEST:
        (a if len(a) > len(b) else b).pop()
    ids = torch.tensor([2, *a, 3, *b, 3])
    types = torch.tensor([0] * (len(a) + 2) + [1] * (len(b) + 1))

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    e = "bleurt.embeddings"
    x = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.token_type_embeddings.weight"][types]
    x = norm(x + w[f"{e}.position_embeddings.weight"][: len(ids)], f"{e}.LayerNorm")
    x = linear(x, "bleurt.encoder.embedding_projection")
    for layer in ("bleurt.encoder.layer.0", "bleurt.encoder.layer.1"):
        q, k, v = (
            linear(x, f"{layer}.attention.self.{n}").view(len(ids), 4, 8).transpose(0, 1)
            for n in ("query", "key", "value")
        )
        seen = (torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1) @ v).transpose(0, 1).reshape(len(ids), 32)
        x = norm(x + linear(seen, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        inner = torch.nn.functional.gelu(linear(x, f"{layer}.intermediate.dense"))
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    pooled = torch.tanh(linear(x[0], "bleurt.pooler.dense"))
    return linear(pooled, "classifier").item()


def test_batched_scores_are_those_of_single_pairs_by_hand(checkpoint):
    pairs = some_pairs(40)
    found = [x["bleurt"] for x in scores_of(checkpoint, pairs, batch_tokens=256)]
    assert found == pytest.approx([by_hand(checkpoint, *pair) for pair in pairs], abs=1e-5)
    assert max(found) - min(found) > 0.1  # else it would be no test


def test_the_order_is_reference_then_candidate(checkpoint):
    """And both count: by_hand has the order of the paper, and another order is another score."""
    one, other = (scores_of(checkpoint, [pair])[0]["bleurt"] for pair in (("Ошибка.", "Вход."), ("Вход.", "Ошибка.")))
    assert abs(one - other) > 1e-3


@pytest.mark.parametrize("tokens", [1, 100, 100_000])
def test_the_size_of_a_batch_does_not_change_a_score(checkpoint, tokens):
    pairs = some_pairs(30)
    single = [scores_of(checkpoint, [pair])[0]["bleurt"] for pair in pairs[:5]]
    assert [x["bleurt"] for x in scores_of(checkpoint, pairs, batch_tokens=tokens)][:5] == pytest.approx(
        single, abs=1e-5
    )


def test_weights_of_2022_are_a_pickle_without_position_ids(checkpoint, copy):
    """As old checkpoints may be; transformers 5 leaves such a buffer unset, and positions from it would be anything."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(copy / "model.safetensors")
    weights.pop("bleurt.embeddings.position_ids", None)
    torch.save(weights, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    pairs = some_pairs(8)
    wanted = [x["bleurt"] for x in scores_of(checkpoint, pairs)]
    assert [x["bleurt"] for x in scores_of(copy, pairs, use_safetensors=False)] == pytest.approx(wanted, abs=1e-6)


def test_half_precision_is_near(checkpoint):
    pairs = some_pairs(8)
    exact, near = ([x["bleurt"] for x in scores_of(checkpoint, pairs, dtype=d)] for d in ("float32", "bfloat16"))
    assert near == pytest.approx(exact, abs=0.2) and near != exact


def test_what_does_not_fit_is_cut_longest_first_and_counted(checkpoint):
    pieces = read_tokenizer(str(checkpoint)).encode
    long, short = russian(90, 1), russian(3, 2)
    assert len(pieces([long])[0]) > LONGEST
    cut, whole, both = scores_of(checkpoint, [(long, short), (short, short), (long, russian(90, 3))])
    assert (cut["bleurt_truncated"], whole["bleurt_truncated"], both["bleurt_truncated"]) == (True, False, True)
    assert cut["bleurt"] == pytest.approx(by_hand(checkpoint, long, short), abs=1e-5)
    assert both["bleurt"] == pytest.approx(by_hand(checkpoint, long, russian(90, 3)), abs=1e-5)
    # What is cut off is the end of the longer text, and of that only.
    after_the_long, after_the_short = scores_of(checkpoint, [(long + " Ошибка", short), (long, short + " Ошибка")])
    assert after_the_long["bleurt"] == pytest.approx(cut["bleurt"], abs=1e-5)
    assert abs(after_the_short["bleurt"] - cut["bleurt"]) > 1e-3


def test_a_pair_that_just_fits_is_not_truncated(checkpoint):
    pieces = read_tokenizer(str(checkpoint)).encode
    words = ["код"]
    while len(pieces([" ".join(words)])[0]) + len(pieces(["код"])[0]) < LONGEST - 3:
        words.append("код")
    fits, over = " ".join(words), " ".join([*words, "код"])
    assert len(pieces([fits])[0]) + len(pieces(["код"])[0]) == LONGEST - 3  # "код" is one token
    found = scores_of(checkpoint, [(fits, "код"), (over, "код")])
    assert [x["bleurt_truncated"] for x in found] == [False, True]


def test_summary(checkpoint):
    data = answered([russian(3, 1), russian(60, 2), None, "Код"], [russian(4, 5), "Вход", "Вход", None])
    found = metric(checkpoint).score(data)
    assert found["i2", 0] == "no answer" and found["i3", 0] == "no reference"
    mean = (found["i0", 0]["bleurt"] + found["i1", 0]["bleurt"]) / 2
    assert metric(checkpoint).summarise(data, as_scores(found)) == {
        "bleurt/mean": pytest.approx(mean),
        "bleurt/mean_n": 2,
        "bleurt/truncated_rate": 0.5,
        "bleurt/truncated_rate_n": 2,
    }


def test_facts_name_the_weights_not_the_folder(checkpoint, copy, english_checkpoint):
    def fact(folder, reference):
        one = metric(folder)
        assert one.facts() == {"checkpoint_sha256": None}  # nothing scored, nothing depended on
        one.score(answered(["payment"], [reference]))
        return one.facts()["checkpoint_sha256"]

    assert len(fact(checkpoint, "Вход")) == 12
    assert fact(checkpoint, "Вход") == fact(copy, "Вход") != fact(english_checkpoint, "payment")


def test_english_checkpoints_load_and_lower_case(english_checkpoint):
    one, other, third = scores_of(
        english_checkpoint, [("Payment failed!", "OK."), ("payment FAILED!", "ok."), ("no", "ok.")]
    )
    assert one == other and one["bleurt"] != third["bleurt"] and one["bleurt_truncated"] is False


# -------------------------------------------------------------------------------------------------------- strange texts


STRANGE = [
    "",
    " \n\t ",
    "Нет",
    "...?!",
    "😀🙏🏽👨‍👩‍👧",
    "لم يتم الدفع \u202e",
    "Опл\0ата\0",
    "\0",
    "\ud83d",
    "[SEP] [CLS]",
    "е\u0308" * 5,
]


@pytest.mark.parametrize("which", ["checkpoint", "english_checkpoint"])
def test_strange_answers_get_a_score_each(which, request):
    folder, good = request.getfixturevalue(which), "Вход." if which == "checkpoint" else "payment."
    found = scores_of(folder, [(text, good) for text in [*STRANGE, "ё" * 20_000, "код " * 5_000]])
    assert len(found) == len(STRANGE) + 2 and all(isinstance(x["bleurt"], float) and x["bleurt"] != 0 for x in found)
    assert [x["bleurt_truncated"] for x in found[-2:]] == ([True, True] if which == "checkpoint" else [False, True])


def test_strange_references_next_to_good_ones_get_a_score_each(checkpoint):
    good = [("Вход.", russian(20, n)) for n in range(20)]
    found = scores_of(checkpoint, [("Вход.", text or "x") for text in STRANGE] + good)
    assert all(isinstance(x["bleurt"], float) and x["bleurt"] != 0 for x in found)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=300), min_size=1, max_size=6))
def test_any_text_gets_the_score_it_has_alone(loaded, texts):
    reference = russian(10, 0)
    together = loaded.score([(reference, text) for text in texts])
    for text, found in zip(texts, together, strict=True):
        assert found["bleurt"] == pytest.approx(loaded.score([(reference, text)])[0]["bleurt"], abs=1e-5)


@pytest.fixture(scope="session")
def loaded(checkpoint):
    from vlm_eval.metrics.bleurt import BleurtModel

    return BleurtModel(str(checkpoint), BleurtConfig(device="cpu"))


@needs_recorded
def test_the_recorded_answers_are_scored_each_distinct_pair_once(checkpoint, monkeypatch):
    """With this test's vocabulary many a letter is unknown; what is asserted is the way through."""
    from vlm_eval.metrics import bleurt

    monkeypatch.setattr(bleurt, "MOST_UNKNOWN", 1.0)
    seen = []
    inner = bleurt.BleurtModel.score
    monkeypatch.setattr(bleurt.BleurtModel, "score", lambda self, pairs: seen.extend(pairs) or inner(self, pairs))
    rows = recorded_rows()
    found = scores_of(checkpoint, [(row["candidate"], row["reference"]) for row in rows])
    assert len(found) == 400 and all(isinstance(x["bleurt"], float) for x in found)
    assert len(seen) == len(set(seen)) == len({(row["candidate"], row["reference"]) for row in rows}) < 400


# --------------------------------------------------------------------------------------- what is refused, and how early


def refused(folder) -> str:
    """Of a checkpoint that is refused once it is loaded: one reason, for every answer."""
    [why] = set(scores_of(folder, some_pairs(3)))
    assert isinstance(why, str) and str(folder) in why and "\n" not in why
    return why


def test_a_tokenizer_that_knows_nothing_is_refused(english_checkpoint, copy):
    """The silent trap of transformers 5: Russian as a row of [UNK], scored without a word."""
    why = refused(english_checkpoint)
    assert "[UNK]" in why and "%" in why
    # Its own words may be strange: the references decide, not what a model under test babbles.
    assert isinstance(scores_of(english_checkpoint, [("Ошибка входа", "payment.")])[0]["bleurt"], float)


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors", "spm.model"])
def test_a_folder_without_its_files_is_refused_before_anything_starts(copy, gone):
    (copy / gone).unlink()
    with pytest.raises(BadInput) as refusal:
        metric(copy).check()
    assert str(copy) in str(refusal.value) and gone.split("/")[-1].replace("model.saf", "*.saf") in str(refusal.value)


def test_no_folder_a_pointer_another_model_and_no_name(copy):
    for name in (copy / "none", "./none", "no such name"):
        with pytest.raises(BadInput, match="no such checkpoint folder"):
            metric(name).check()
    with pytest.raises(BadInput, match="neither a folder nor a name"):
        metric("a b/c").check()
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(BadInput, match="git lfs pull"):
        metric(copy).check()


def test_another_kind_of_model(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(BadInput, match="bert model"):
        metric(copy).check()


def test_weights_that_lack_the_head_are_refused(copy):
    """Else transformers makes up the missing tensors, and the scores with them."""
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "classifier" not in k}, copy / "model.safetensors", {"format": "pt"})
    assert "classifier.bias" in refused(copy)


def test_damaged_weights_and_a_vocabulary_of_another_model(copy, checkpoint):
    size = (copy / "model.safetensors").stat().st_size
    os.truncate(copy / "model.safetensors", size - 100)
    refused(copy)
    shutil.copy(checkpoint / "model.safetensors", copy)
    make_model(copy, vocab_size=50)
    assert "its model knows 50" in refused(copy)
    (copy / "spm.model").write_bytes(b"no vocabulary")
    refused(copy)


def test_a_score_that_is_no_number_is_a_reason(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights["classifier.bias"].fill_(float("nan"))
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert set(scores_of(copy, some_pairs(3))) == {"the model's score is nan"}


@pytest.mark.parametrize("more", [{"batch_tokens": 0}, {"dtype": "int8"}])
def test_settings_that_cannot_be_meant(more):
    with pytest.raises(BadInput, match=next(iter(more))):
        metric("x/y", **more)


def test_transformers_is_left_as_it_was():
    """vLLM lives in the same process, and other code asks transformers what it has."""
    code = """
import sys, transformers.pytorch_utils as u, transformers.models.bert
from transformers import PreTrainedModel
before = set(dir(u)), set(dir(PreTrainedModel)), set(sys.modules)
from vlm_eval.metrics.bleurt_on_transformers5 import import_bleurt
assert import_bleurt() is import_bleurt()
assert (set(dir(u)), set(dir(PreTrainedModel))) == before[:2]
assert all(sys.modules[m].__spec__ for m in set(sys.modules) - before[2] if m.startswith("transformers."))
print("same")
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "same\n"


def test_its_module_imports_nothing_heavy():
    heavy = "torch", "transformers", "numpy", "huggingface_hub"
    code = f"import sys, vlm_eval.metrics.bleurt; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# -------------------------------------------------------------------------------------------------------------- the Hub


ON_HUB = """
import json, sys, time
from tests.metrics.data import answered
from vlm_eval.errors import BadInput
from vlm_eval.metrics.bleurt import Bleurt, BleurtConfig
metric = Bleurt(BleurtConfig(checkpoint=sys.argv[1], device="cpu"))
import huggingface_hub
began = time.monotonic()
try:
    why = metric.check()
except BadInput as error:
    why = f"BadInput: {error}"
took = time.monotonic() - began
data = answered(["Код", None], ["Вход", "Вход"])
found = list(metric.score(data).values()) if sys.argv[2] == "score" else None
print(json.dumps([why, took, found, metric.facts()["checkpoint_sha256"]]))
"""


def on_hub(cache, name="someone/BLEURT-tiny", then="score", **environment):
    """In a process of its own, for huggingface_hub reads its environment once: check()'s sentence, its seconds,
    score()'s values and the hash."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"HF_HOME": str(cache), "NO_PROXY": "127.0.0.1", **environment}
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run([sys.executable, "-c", ON_HUB, name, then], cwd=root, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


class Hub(http.server.BaseHTTPRequestHandler):
    """What huggingface_hub asks of the Hub, for the one repository someone/BLEURT-tiny."""

    folder: Path
    lacks: tuple[str, ...] = ()
    silent = False

    def do_GET(self):
        if type(self).silent:
            time.sleep(20)
            return
        path = self.path.partition("?")[0]
        files = {f.name: f.read_bytes() for f in self.folder.iterdir() if f.name not in self.lacks}
        if path.startswith("/api/models/someone/BLEURT-tiny"):
            known = {"id": "someone/BLEURT-tiny", "sha": "a" * 40, "siblings": [{"rfilename": f} for f in files]}
            tree = [{"type": "file", "path": f, "size": len(c), "oid": f"{f}-1"} for f, c in files.items()]
            self.reply(200, json.dumps(tree if "/tree/" in path else known).encode())
        elif path.startswith("/someone/BLEURT-tiny/resolve/") and path.rpartition("/")[2] in files:
            name = path.rpartition("/")[2]
            self.reply(200, files[name], **{"ETag": f'"{name}-1"', "X-Repo-Commit": "a" * 40})
        else:
            self.reply(404, b"{}", **{"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def reply(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(checkpoint):
    served = type("ThisHub", (Hub,), {"folder": checkpoint})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), served)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield served, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_checkpoint_of_the_hub_is_fetched_once_and_scores_as_the_folder(hub, checkpoint, tmp_path):
    wanted = scores_of(checkpoint, [("Код", "Вход")])[0]["bleurt"]
    why, _, [scored, unanswered], sha = on_hub(tmp_path, HF_ENDPOINT=hub[1])
    assert why is None and scored["bleurt"] == pytest.approx(wanted, abs=1e-5) and unanswered == "no answer"
    # Now it is in the cache: neither a dead Hub nor a forbidden one keeps it from scoring.
    assert on_hub(tmp_path, HF_ENDPOINT="http://127.0.0.1:9")[2:] == [[scored, unanswered], sha]
    assert on_hub(tmp_path, then="", HF_HUB_OFFLINE="1")[0] is None


@pytest.mark.parametrize(
    "environment, said",
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9"),
        ({"HF_HUB_OFFLINE": "1"}, "and HF_HUB_OFFLINE is set"),
    ],
)
def test_without_the_hub_the_run_goes_on_and_every_answer_has_the_reason(tmp_path, environment, said):
    why, took, found, sha = on_hub(tmp_path, **environment)
    assert said in why and "someone/BLEURT-tiny" in why and "\n" not in why and took < 3
    assert found == [why, "no answer"] and sha is None


def test_a_hub_that_does_not_answer_costs_seconds(hub, tmp_path):
    hub[0].silent = True
    why, took, found, _ = on_hub(tmp_path, HF_ENDPOINT=hub[1])
    assert hub[1] in why and hub[1] in found[0] and took < 6


def test_what_the_hub_does_not_have_is_refused_before_anything_starts(hub, tmp_path):
    assert on_hub(tmp_path, "someone/BLEURT-2O", then="", HF_ENDPOINT=hub[1])[0].startswith(
        "BadInput: someone/BLEURT-2O"
    )
    hub[0].lacks = ("model.safetensors",)
    why = on_hub(tmp_path, then="", HF_ENDPOINT=hub[1])[0]
    assert why.startswith("BadInput: someone/BLEURT-tiny") and "*.safetensors" in why


# -------------------------------------------------------------------------------------------------- text_checkpoints.py


@given(st.lists(st.integers(0, 50)), st.integers(1, 200))
def test_batches_hold_every_index_once_sorted_and_within_the_budget(lengths, limit):
    batches = batches_by_length(lengths, limit)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths)
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= limit for b in batches)


def test_a_batch_is_as_full_as_it_may_be():
    assert batches_by_length([5, 1, 2, 2, 9], 6) == [[1, 2, 3], [0], [4]]


def test_needs_are_alternatives(tmp_path):
    (tmp_path / "b.bin").write_bytes(b"x")
    assert problem(str(tmp_path), ["*.safetensors|*.bin"]) is None
    with pytest.raises(BadInput, match=r"no \*\.safetensors or \*\.pt, no config\.json"):
        problem(str(tmp_path), ["*.safetensors|*.pt", "config.json"])


def test_other_weights_of_the_same_shape_are_another_checkpoint(tmp_path):
    for name, weights in (("one", b"1234"), ("two", b"1235"), ("three", b"1234")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    one, two, three = (fingerprint(str(tmp_path / name)) for name in ("one", "two", "three"))
    assert one == three != two
