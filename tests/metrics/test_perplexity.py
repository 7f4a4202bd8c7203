"""Perplexity: by hand on a table of bigrams, against transformers and torchmetrics on trained models."""

from __future__ import annotations

import json
import math
import random
import shutil
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import composed
from vlm_eval import config
from vlm_eval.errors import BadInput
from vlm_eval.metrics.base import Answered
from vlm_eval.metrics.perplexity import Perplexity, PerplexityConfig, windows

from . import small_lm
from .data import answered, as_scores, needs_recorded, recorded_rows, summarised

# After "<s>" comes а, б or в; after each of them one of two.
TABLE = {
    "<s>": {"а": 1 / 2, "б": 1 / 4, "в": 1 / 4},
    "а": {"а": 1 / 4, "б": 3 / 4},
    "б": {"а": 1 / 8, "в": 7 / 8},
    "в": {"а": 1 / 2, "в": 1 / 2},
}
LONG = " ".join(small_lm.russian(seed=5, count=12))  # of the trained model's tokens 3 to 4 windows


@pytest.fixture(scope="module")
def bigrams(tmp_path_factory):
    return small_lm.save_bigrams(tmp_path_factory.mktemp("bigrams"), TABLE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return small_lm.save_trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def plain(trained):
    return load(trained)


def load(folder):
    """Model and tokenizer as transformers gives them: what this metric is held against."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Not .float() afterwards: Gemma's own constants would have been rounded to the checkpoint's bfloat16.
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(
        folder
    )


def perplexity(checkpoint, **more):
    return Perplexity(PerplexityConfig(checkpoint=str(checkpoint), **more))


def score(checkpoint, *texts, **more):
    """Columns of each text, or the reason why there are none."""
    return list(perplexity(checkpoint, **more).score(answered(texts)).values())


def values(checkpoint, *texts, **more):
    return [found["perplexity"] for found in score(checkpoint, *texts, **more)]


# ---------------------------------------------------------------------------------------------------------- by hand


def bits(*probabilities):
    return -sum(math.log2(p) for p in probabilities)


def test_a_text_by_hand(bigrams):
    [found] = score(bigrams, "а б в в а")
    expected = bits(1 / 2, 3 / 4, 7 / 8, 1 / 2, 1 / 2)  # the first after the start token, which is itself not scored
    assert found["perplexity_tokens"] == 5
    assert found["perplexity_nll"] == pytest.approx(expected * math.log(2), rel=1e-5)
    assert found["perplexity"] == pytest.approx(2 ** (expected / 5), rel=1e-5)


def test_every_window_begins_with_the_start_token(bigrams):
    """Windows of three words without overlap: the first of each is scored as one that follows "<s>". What is left over
    gets a full window too, so that its word is seen to follow б."""
    [found] = score(bigrams, "а б в в а б в", window=4, overlap=0.0)
    expected = bits(1 / 2, 3 / 4, 7 / 8) + bits(1 / 4, 1 / 2, 3 / 4) + bits(7 / 8)
    assert found["perplexity_nll"] == pytest.approx(expected * math.log(2), rel=1e-5)


def test_with_overlap_no_token_but_the_first_follows_the_start_token(bigrams):
    """The last word is all that counts here, so windows that overlap by one word give what one window gives."""
    text = "а б в в а б в а б а б в а а б"
    [whole], [cut] = score(bigrams, text), score(bigrams, text, window=4, overlap=0.4)
    assert cut["perplexity_tokens"] == whole["perplexity_tokens"] == 15
    assert cut["perplexity_nll"] == pytest.approx(whole["perplexity_nll"], rel=1e-5)


def test_the_corpus_is_weighed_by_tokens_and_the_mean_by_texts(bigrams):
    """The short text stands there twice (a repeat that gave the same answer) and counts twice."""
    short, long = "а б в в а", "в в в в в в в в в в"
    data = answered([short, short, long, None], repeats=2)
    summary = summarised(perplexity(bigrams), data)
    nll = [bits(1 / 2, 3 / 4, 7 / 8, 1 / 2, 1 / 2)] * 2 + [bits(1 / 4, *[1 / 2] * 9)]
    assert summary["perplexity/corpus"] == pytest.approx(2 ** (sum(nll) / 20), rel=1e-5)
    assert summary["perplexity/mean"] == pytest.approx((2 * 2 ** (nll[0] / 5) + 2 ** (nll[2] / 10)) / 3, rel=1e-5)
    assert summary["perplexity/corpus_n"] == summary["perplexity/mean_n"] == 3
    assert summary["perplexity/tokens"] == 20


def test_the_interval_by_hand(bigrams):
    """Of texts of equal length: the t interval of their mean loss, its ends to the power of e."""
    texts = ["а б в в а", "в в в в в", "б а а а б", "а а а а а", "б в а б а"]
    summary = summarised(perplexity(bigrams), answered(texts))
    nats = [found["perplexity_nll"] / 5 for found in score(bigrams, *texts)]
    half = 2.7764 * statistics.stdev(nats) / 5**0.5
    assert summary["perplexity/corpus_ci_low"] == pytest.approx(math.exp(statistics.mean(nats) - half), rel=1e-3)
    assert summary["perplexity/corpus_ci_high"] == pytest.approx(math.exp(statistics.mean(nats) + half), rel=1e-3)
    assert summary["perplexity/mean_ci_low"] < summary["perplexity/mean"] < summary["perplexity/mean_ci_high"]


def test_repeats_that_say_the_same_do_not_narrow_the_interval(bigrams):
    texts = ["а б в в а", "в в в в в", "б а а а б", "а а а а а", "б в а б а"]
    once = summarised(perplexity(bigrams), answered(texts))
    often = summarised(perplexity(bigrams), answered([text for text in texts for _ in range(4)], repeats=4))
    for name in ("perplexity/corpus", "perplexity/corpus_ci_low", "perplexity/corpus_ci_high"):
        assert often[name] == pytest.approx(once[name])
    assert often["perplexity/corpus_n"] == 20


def test_noise_is_left_out_and_counted(bigrams):
    data = answered(["а б в в", "", "а б в в а", None])
    found = perplexity(bigrams).score(data)
    nothing = {"perplexity": None, "perplexity_nll": None}
    assert found["i0", 0] == nothing | {"perplexity_tokens": 4} and found["i1", 0] == nothing | {"perplexity_tokens": 0}
    assert found["i3", 0] == "no answer"
    summary = perplexity(bigrams).summarise(data, as_scores(found))
    assert summary["perplexity/noise_rate"] == pytest.approx(2 / 3) and summary["perplexity/noise_rate_n"] == 3
    assert summary["perplexity/corpus_n"] == 1 and summary["perplexity/tokens"] == 5
    assert values(bigrams, "а б в в", min_tokens=4) == [pytest.approx(2 ** (bits(1 / 2, 3 / 4, 7 / 8, 1 / 2) / 4))]


def test_nothing_but_noise_leaves_its_rate_and_no_perplexity(bigrams):
    assert summarised(perplexity(bigrams), answered(["а", "б"])) == {
        "perplexity/noise_rate": 1.0,
        "perplexity/noise_rate_n": 2,
    }


# ---------------------------------------------------------------------------- against transformers and torchmetrics


def loss(model, tokenizer, text, start=0):
    """transformers' own mean loss over one window with the start token."""
    import torch

    ids = torch.tensor([[start, *tokenizer(text, add_special_tokens=False).input_ids]])
    with torch.inference_mode():
        return model(input_ids=ids, labels=ids).loss.item()


TEXTS = [*small_lm.russian(seed=9, count=6), "Не открывается карта, пишет ошибку", "карта не карта не карта"]


def test_as_transformers_has_it(trained, plain):
    for text, found in zip(TEXTS, score(trained, *TEXTS), strict=True):
        assert found["perplexity"] == pytest.approx(math.exp(loss(*plain, text)), rel=1e-4)
        assert found["perplexity_tokens"] == len(plain[1](text).input_ids)


def test_as_torchmetrics_has_it(trained, plain):
    import torch
    from torchmetrics.text import Perplexity as Theirs

    model, tokenizer = plain
    theirs = Theirs()
    for text in TEXTS:
        ids = torch.tensor([[0, *tokenizer(text).input_ids]])
        with torch.inference_mode():
            theirs.update(model(input_ids=ids).logits[:, :-1], ids[:, 1:])
    ours = summarised(perplexity(trained), answered(TEXTS))
    assert ours["perplexity/corpus"] == pytest.approx(theirs.compute().item(), rel=1e-4)


def test_finite_where_the_probabilities_underflow(trained, tmp_path):
    """A model surer of itself by far: torchmetrics takes the logarithm of a softmax that is 0 in float32."""
    import torch
    from torchmetrics.functional.text import perplexity as theirs

    sure = shutil.copytree(trained, tmp_path / "sure")
    model, tokenizer = load(sure)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(12)
        model.transformer.ln_f.bias.mul_(12)
    model.save_pretrained(sure)
    text = "Спасибо! кнопка пропала второй карта телефоне ошибка"
    ids = torch.tensor([[0, *tokenizer(text).input_ids]])
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[:, :-1]
    exact = torch.nn.functional.cross_entropy(logits[0].double(), ids[0, 1:]).exp().item()
    assert math.isinf(theirs(logits, ids[:, 1:]))
    assert values(sure, text) == [pytest.approx(exact, rel=1e-4)]


def test_order_of_words_shows(trained):
    for text in small_lm.russian(seed=11, count=3):
        words = text.split()
        random.Random(0).shuffle(words)
        right, wrong = values(trained, text, " ".join(words))
        assert right < 2.5 and wrong > 3 * right


def test_the_start_token_makes_the_first_word_likely(trained, plain):
    """Without it the first token could not be scored at all, or would follow a word that is not there."""
    model, tokenizer = plain
    text = small_lm.russian(seed=12, count=1)[0]
    [ours] = values(trained, text)
    assert ours == pytest.approx(math.exp(loss(model, tokenizer, text)), rel=1e-4)
    assert math.exp(loss(model, tokenizer, text, start=tokenizer(" карта").input_ids[0])) > 1.05 * ours


def test_of_half_precision_weights_the_loss_is_float32_all_the_same(trained, plain):
    import torch

    model = load(trained)[0].bfloat16()
    for text in TEXTS:
        ids = torch.tensor([[0, *plain[1](text).input_ids]])
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, :-1].float()
        expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:]).exp().item()
        assert values(trained, text, dtype="bfloat16") == [pytest.approx(expected, rel=1e-5)]
        assert expected == pytest.approx(math.exp(loss(*plain, text)), rel=0.05)


# ------------------------------------------------------------------------------------------------------ long texts


def one_by_one(model, tokenizer, text, capacity, step):
    """Each token alone, in the first window that reaches it: slow, and without batches, padding or slices."""
    import torch

    ids, total = tokenizer(text).input_ids, 0.0
    for place, token in enumerate(ids):
        end = capacity
        while end <= place:
            end += step
        end = min(end, len(ids))
        context = [0, *ids[max(0, end - capacity) : place]]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([context])).logits[0, -1]
        total -= torch.log_softmax(logits.double(), -1)[token].item()
    return total, len(ids)


@pytest.mark.parametrize("window, overlap, capacity, step", [(1024, 0.5, 63, 31), (17, 0.75, 16, 4), (33, 0.0, 32, 32)])
def test_long_texts_as_one_token_at_a_time(trained, plain, window, overlap, capacity, step):
    nll, count = one_by_one(*plain, LONG, capacity, step)
    assert count > 3 * 64
    for batch_tokens in (1, 300, 100_000):
        [found] = score(trained, LONG, window=window, overlap=overlap, batch_tokens=batch_tokens)
        assert found["perplexity_tokens"] == count
        assert found["perplexity_nll"] == pytest.approx(nll, rel=1e-5)


@pytest.mark.parametrize("window", [64, 1024])
def test_a_text_that_fits_is_one_window_whatever_the_overlap(trained, window):
    for text in TEXTS:
        assert values(trained, text, window=window, overlap=0.9) == pytest.approx(
            values(trained, text, window=window, overlap=0.0)
        )


def test_more_context_makes_a_long_text_no_stranger(trained):
    [much], [none] = values(trained, LONG, window=32, overlap=0.5), values(trained, LONG, window=32, overlap=0.0)
    assert much < none


@given(st.integers(0, 500), st.integers(1, 70), st.floats(0, 0.99))
def test_windows_score_each_token_once_with_context_enough(count, capacity, overlap):
    found = list(windows(count, capacity, overlap))
    scored = [token for _, first, end in found for token in range(first, end)]
    assert scored == list(range(count))
    assert all(end - start <= capacity for start, _, end in found)
    if capacity * (1 - overlap) >= 1:  # else a window moves on by one token all the same
        assert all(first - start >= math.floor(overlap * capacity) for start, first, _ in found[1:])


# --------------------------------------------------------------------------------------- batches, order, odd texts

ODD = {
    "emoji": "😀🙏🏽👨‍👩‍👧 не работает 🆘",
    "right to left": "لم يتم الدفع بالبطاقة \u202e ошибка",
    "NUL": "Опл\0ата не прошла\0\0\0",
    "start token as text": "<|endoftext|> ошибка <|endoftext|>",
    "spaces": " \n\t " * 5,
    "20,000 characters": ("Оплата не прошла, ошибка 504. " * 667)[:20_000],
}


def test_batches_give_what_each_text_gives_alone(trained):
    texts = [*TEXTS, LONG, *ODD.values()]
    together = score(trained, *texts, batch_tokens=100_000)
    for text, found in zip(texts, together, strict=True):
        [alone] = score(trained, text, batch_tokens=1)
        assert alone["perplexity_tokens"] == found["perplexity_tokens"]
        assert alone["perplexity_nll"] == pytest.approx(found["perplexity_nll"], rel=1e-5)


def test_order_and_company_do_not_count(trained):
    texts = [*TEXTS, LONG, "Нет"]
    there, back = score(trained, *texts), score(trained, *texts[::-1])[::-1]
    for one, other in zip(there, back, strict=True):
        assert one["perplexity_tokens"] == other["perplexity_tokens"]
        assert (one["perplexity_nll"] or 0) == pytest.approx(other["perplexity_nll"] or 0, rel=1e-5)


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_have_a_perplexity(trained, text):
    [found] = score(trained, text)
    assert found["perplexity_tokens"] >= 5 and 1 < found["perplexity"] < math.inf


def test_what_looks_like_a_special_token_is_text(trained):
    """A model under test babbled it; as one token it would pass for the end of a text."""
    [found] = score(trained, "<|endoftext|>")
    assert found["perplexity_tokens"] > 5 and found["perplexity"] > 100


def test_half_a_surrogate_pair_is_a_reason(trained):
    assert score(trained, "не работает \ud83d", TEXTS[0])[0] == "the answer is not valid Unicode"
    assert score(trained, "не работает \ud83d", TEXTS[0])[1] == score(trained, TEXTS[0])[0]


@pytest.fixture(scope="module")
def any_text(trained):
    from vlm_eval.metrics.perplexity import CausalModel

    metric = perplexity(trained)
    model = CausalModel(str(trained), metric.config)
    return lambda text: metric._score_distinct(model, [text])[0]  # loads the model once, not for every example


@settings(deadline=None, max_examples=150)
@given(text=st.text(max_size=60) | st.text("абв ёЁ.!😀\0\u202e", max_size=60))
def test_any_text_is_scored_or_noise(any_text, text):
    found = any_text(text)
    if found["perplexity_tokens"] < 5:
        assert found["perplexity"] is None and found["perplexity_nll"] is None
    else:
        assert 1 < found["perplexity"] < math.inf


# --------------------------------------------------------------------------------------------- models and bad input


def without(folder, target, *names):
    shutil.copytree(folder, target)
    for name in names:
        (target / name).unlink()
    return target


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_an_incomplete_folder_is_refused_before_anything_starts(trained, tmp_path, name):
    folder = without(trained, tmp_path / "checkpoint", name)
    with pytest.raises(BadInput) as refused:
        perplexity(folder).check()
    assert name.rpartition(".")[2] in str(refused.value) and str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no such checkpoint folder"):
        perplexity(tmp_path / "nothing").check()


@pytest.mark.parametrize(
    "key, value", [("window", 1), ("overlap", 1.0), ("overlap", -0.1), ("min_tokens", 0), ("dtype", "int8")]
)
def test_numbers_that_cannot_be_meant_are_refused(key, value):
    with pytest.raises(BadInput, match=f"metrics.perplexity.{key}={value}"):
        perplexity("x/y", **{key: value})


def test_without_the_hub_every_answer_says_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    metric = perplexity("nobody/no-such-language-model")
    why = metric.check()
    assert "nobody/no-such-language-model" in why and "HF_HUB_OFFLINE" in why
    assert set(metric.score(answered(["Да", None])).values()) == {why}
    assert metric.facts() == {"checkpoint": "nobody/no-such-language-model", "checkpoint_sha256": None}


def edit(file, **changes):
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in (settings | changes).items() if value is not None}))


def test_without_a_start_token_the_end_token_takes_its_place(trained, tmp_path):
    folder = without(trained, tmp_path / "checkpoint")
    edit(folder / "tokenizer_config.json", bos_token=None, tokenizer_class="PreTrainedTokenizerFast")
    assert load(folder)[1].bos_token_id is None
    assert values(folder, *TEXTS) == pytest.approx(values(trained, *TEXTS))


def reason(folder, *texts):
    """The one reason that all answers have, and no number comes of it."""
    data = answered([*texts] or TEXTS)
    metric = perplexity(folder)
    assert metric.check() is None
    found = metric.score(data)
    [why] = set(found.values())
    assert metric.summarise(data, as_scores(found)) == {}
    return why


def test_without_any_such_token_there_is_a_reason(trained, tmp_path):
    folder = without(trained, tmp_path / "checkpoint")
    no = {"bos_token": None, "eos_token": None, "tokenizer_class": "PreTrainedTokenizerFast"}
    edit(folder / "tokenizer_config.json", **no)
    assert "no start token" in reason(folder)


def changed_weights(trained, folder, change):
    from safetensors.torch import load_file, save_file

    shutil.copytree(trained, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_broken_model_gives_a_reason_and_no_number(trained, tmp_path):
    folder = changed_weights(trained, tmp_path / "nan", lambda w: w["transformer.ln_f.weight"].fill_(math.nan))
    assert reason(folder).endswith("a loss of nan nats a token")
    folder = changed_weights(trained, tmp_path / "far", lambda w: w["transformer.ln_f.weight"].mul_(1e4))
    assert reason(folder, "zzz qqq ъыщ").endswith("nats a token")


def test_missing_weights_are_not_filled_with_random_numbers(trained, tmp_path):
    folder = changed_weights(trained, tmp_path / "hole", lambda w: w.pop("transformer.h.1.mlp.c_fc.weight"))
    assert "transformer.h.1.mlp.c_fc.weight" in reason(folder)


def test_a_model_that_sees_ahead_is_refused(trained, tmp_path):
    """BERT and its like load as causal models without a word."""
    from transformers import BertConfig, BertForMaskedLM

    folder = without(trained, tmp_path / "bert", "config.json", "generation_config.json")
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=512, initializer_range=0.5, **size)).save_pretrained(folder)
    assert "not a causal model" in reason(folder)


def test_a_tokenizer_of_another_model_is_refused(trained, bigrams, tmp_path):
    folder = without(bigrams, tmp_path / "mixed", "tokenizer.json", "tokenizer_config.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(trained / name, folder)
    assert "do not belong together" in reason(folder)


def test_cut_off_weights_are_a_reason(trained, tmp_path):
    folder = without(trained, tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert str(folder) in reason(folder)


def test_facts_tell_models_apart_and_not_where_they_are(trained, bigrams, tmp_path):
    def facts(folder):
        metric = perplexity(folder)
        metric.score(answered(["Да"]))
        return metric.facts()

    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copytree(trained, tmp_path / "elsewhere" / trained.name)
    assert facts(trained) == facts(moved) and set(facts(trained)) == {"checkpoint", "checkpoint_sha256"}
    assert facts(trained)["checkpoint_sha256"] != facts(bigrams)["checkpoint_sha256"]


def test_the_yaml_builds_it():
    node = composed("metrics=[perplexity]", "metrics.perplexity.min_tokens=7").metrics.perplexity
    metric = config.build(node)
    assert isinstance(metric, Perplexity) and metric.config.min_tokens == 7
    assert {**vars(metric.config), "min_tokens": 5} == vars(PerplexityConfig(node._target_))


# ------------------------------------------------------------------------------------------------- Gemma 3 270M


@pytest.fixture(scope="module")
def gemma():
    try:
        return small_lm.gemma()
    except OSError as error:
        pytest.skip(f"the wheels that carry Gemma 3 270M cannot be had: {error}")


@pytest.mark.long
def test_gemma_knows_russian(gemma):
    right = "Здравствуйте, у меня не работает приложение: при входе появляется ошибка 504."
    broken = "Здравствуй, у мне не работать приложение: при входом появляешь ошибкой 504."
    shuffled = "при появляется работает ошибка не у приложение: меня входе 504. Здравствуйте,"
    found = score(gemma, right, broken, shuffled)
    model, tokenizer = load(gemma)
    for text, columns in zip((right, broken, shuffled), found, strict=True):
        expected = math.exp(loss(model, tokenizer, text, start=tokenizer.bos_token_id))
        assert columns["perplexity"] == pytest.approx(expected, rel=1e-4)
    fine, wrong, mixed = (columns["perplexity"] for columns in found)
    assert fine < 60 and 3 * fine < wrong < mixed and mixed > 1000


@pytest.mark.long
@needs_recorded
def test_gemma_ranks_the_recorded_answers_much_as_the_study_did(gemma):
    """The study recorded the perplexity of each answer under another model, rugpt3large."""
    from scipy.stats import spearmanr

    rows = [row for row in recorded_rows() if row["perplexity"]]
    data: Answered = answered([row["candidate"] for row in rows])
    metric = perplexity(gemma, batch_tokens=1024)
    found = list(metric.score(data).values())
    both = [
        (columns["perplexity"], float(row["perplexity"]))
        for columns, row in zip(found, rows, strict=True)
        if columns["perplexity"] is not None
    ]
    assert len(both) > 350
    assert spearmanr(both).statistic > 0.6
