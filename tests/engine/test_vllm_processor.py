"""That a processor is loaded without copies of the tokenizer it is given."""

from importlib.metadata import entry_points

import pytest

from vlm_eval import paths
from vlm_eval.engines.vllm_processor import ASKED, load_without_copies

CHECKPOINT = str(paths.demo("models/bf16"))


@pytest.fixture
def transformers(monkeypatch):
    import transformers

    monkeypatch.setenv(ASKED, "0")
    for of in (transformers.ProcessorMixin, transformers.AutoProcessor):  # put back afterwards
        monkeypatch.setattr(of, "from_pretrained", vars(of)["from_pretrained"])
    name = "_load_tokenizer_from_pretrained"
    monkeypatch.setattr(transformers.ProcessorMixin, name, vars(transformers.ProcessorMixin)[name])
    return transformers


@pytest.fixture
def tokenizer(transformers):
    """One that counts its copies."""
    found = transformers.AutoTokenizer.from_pretrained(CHECKPOINT)

    class Counted(type(found)):
        copies = 0

        def __deepcopy__(self, memo):
            Counted.copies += 1
            return self

    found.__class__ = Counted
    return found


@pytest.mark.parametrize("of", ["Qwen2VLProcessor", "AutoProcessor"])
def test_a_processor_gets_its_tokenizer_without_a_copy(transformers, tokenizer, of):
    of = getattr(transformers, of)
    of.from_pretrained(CHECKPOINT, tokenizer=tokenizer)
    assert tokenizer.copies > 1, "transformers copies no longer: vllm_processor.py can go"
    type(tokenizer).copies = 0
    load_without_copies()
    load_without_copies()
    assert of.from_pretrained(CHECKPOINT, tokenizer=tokenizer).tokenizer is tokenizer
    assert tokenizer.copies == 0 and "__deepcopy__" not in vars(tokenizer)
    assert of.from_pretrained(CHECKPOINT).tokenizer is not tokenizer


def test_no_second_tokenizer_is_loaded(transformers, tokenizer, monkeypatch):
    loaded, load = [], transformers.AutoTokenizer.from_pretrained
    counted = staticmethod(lambda *args, **kwargs: loaded.append(args) or load(*args, **kwargs))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", counted)
    of = transformers.Qwen2VLProcessor
    of.from_pretrained(CHECKPOINT, tokenizer=tokenizer)
    assert loaded, "transformers loads none any longer: _the_given_one can go"
    loaded.clear()
    load_without_copies()
    assert of.from_pretrained(CHECKPOINT, tokenizer=tokenizer).tokenizer is tokenizer and not loaded
    assert of.from_pretrained(CHECKPOINT).tokenizer is not tokenizer and loaded


def test_what_cannot_be_loaded_leaves_the_tokenizer_as_it_was(transformers, tokenizer, tmp_path):
    load_without_copies()
    with pytest.raises(OSError):
        transformers.Qwen2VLProcessor.from_pretrained(str(tmp_path), tokenizer=tokenizer)
    assert "__deepcopy__" not in vars(tokenizer)


def test_processes_that_vllm_starts_from_one_that_asked_do_likewise_and_no_others(transformers, monkeypatch):
    [plugin] = [p for p in entry_points(group="vllm.general_plugins") if p.name == "vlm_eval_processor"]
    unchanged = transformers.ProcessorMixin.from_pretrained.__func__
    plugin.load()()
    assert transformers.ProcessorMixin.from_pretrained.__func__ is unchanged
    load_without_copies()  # sets what a child inherits
    monkeypatch.setattr(transformers.ProcessorMixin, "from_pretrained", classmethod(unchanged))
    plugin.load()()
    assert transformers.ProcessorMixin.from_pretrained.copies_nothing
