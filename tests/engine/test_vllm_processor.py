"""That a processor is loaded without copies of the tokenizer it is given."""

import pytest

from vlm_eval import paths
from vlm_eval.engines.vllm_processor import load_without_copies

CHECKPOINT = str(paths.demo("models/bf16"))


@pytest.fixture
def transformers(monkeypatch):
    import transformers

    for of in (transformers.ProcessorMixin, transformers.AutoProcessor):  # put back afterwards
        monkeypatch.setattr(of, "from_pretrained", vars(of)["from_pretrained"])
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


def test_what_cannot_be_loaded_leaves_the_tokenizer_as_it_was(transformers, tokenizer, tmp_path):
    load_without_copies()
    with pytest.raises(OSError):
        transformers.Qwen2VLProcessor.from_pretrained(str(tmp_path), tokenizer=tokenizer)
    assert "__deepcopy__" not in vars(tokenizer)
