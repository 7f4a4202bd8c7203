"""Bad input is refused before anything starts: one line that names file, key and the way out, exit code 2, no file."""

from __future__ import annotations

import functools
import json
import struct
import time
import zlib

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from vlm_eval import checkpoints, config, preflight, tables
from vlm_eval.errors import BadInput

from .helpers import Ended, composed, make_checkpoint, make_data, write_table

QUESTION = {"item_id": "a", "image": "a.png", "question": "Что это?", "reference": "Чат"}


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data")


@pytest.fixture
def checkpoint(tmp_path):
    return make_checkpoint(tmp_path / "checkpoint")


both = pytest.mark.parametrize("refused", ["run", "sweep"], indirect=True)


@pytest.fixture
def refused(request, vlm_eval_cli, monkeypatch, tmp_path, data, checkpoint):
    """Says no to these overrides, in one line that holds all these words.

    With @both by way of the whole command, as a run and as a sweep; else by the check alone, which is what both of them
    call and takes a tenth of the time.
    """
    monkeypatch.setattr("vlm_eval.launch.launch", lambda *_: pytest.fail("a run was started"))

    def refused(*overrides, naming, model=("model=local", f"model.path={checkpoint}")):
        overrides = [*model, "quant=bf16", "task=vqa", f"task.data.root={data}", *overrides]
        if hasattr(request, "param"):
            ended = vlm_eval_cli(*(["-m"] if request.param == "sweep" else []), *overrides)
        else:
            with pytest.raises(BadInput) as error:
                preflight.check(with_values(*overrides))
            ended = Ended(2, "", f"vlm-eval: {error.value}\n")
        check_refusal(ended, tmp_path, naming)
        return ended.err

    return refused


@functools.cache
def composed_once(*choices: str):
    return composed(*choices)


def with_values(*overrides: str):
    """What composing these overrides gives, in a tenth of the time: Hydra is asked once for each choice of groups."""
    choices = [o for o in overrides if o.partition("=")[0] in ("model", "quant", "task", "experiment")]
    values = [o.lstrip("+") for o in overrides if o not in choices]
    try:
        cfg = OmegaConf.merge(composed_once(*choices), OmegaConf.from_dotlist(values))
    except OmegaConfBaseException as error:
        raise BadInput(config.explain(error)) from error
    return config.validate(cfg)


def check_refusal(ended, tmp_path, naming):
    assert ended.code == 2, ended
    assert ended.err.startswith("vlm-eval: ") and ended.err.count("\n") == 1, ended.err
    assert ended.out == ""
    for words in naming:
        assert str(words) in ended.err
    assert list((tmp_path / "cwd").iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- pictures


def png(width: int, height: int) -> bytes:
    """A picture's header alone: whoever decodes it fails."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


BAD_PICTURES = {
    "missing": (None, "no such image"),
    "empty": (b"", "not an image"),
    "text": ("Извините, страница не найдена".encode(), "not an image"),
    "header only": (png(64, 48), "broken image"),
    "over our limit": (png(8000, 8000), "8000 x 8000 pixels, over the limit of 50000000"),
    "over Pillow's limit too": (png(20_000, 20_000), "over the limit of 50000000"),
}


@pytest.mark.parametrize("content, complaint", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_a_bad_picture(refused, data, content, complaint):
    file = data / "images" / "b.png"
    file.unlink() if content is None else file.write_bytes(content)
    began = time.monotonic()
    line = refused(naming=[file, complaint, data / "items.csv", "row 3", "task.on_bad_item=record"])
    assert time.monotonic() - began < 5
    assert ("task.image.pixel_limit" in line) == ("limit" in complaint)


@both
def test_a_truncated_picture(refused, data):
    file = data / "images" / "b.png"
    Image.effect_noise((64, 48), 50).save(file)
    file.write_bytes(file.read_bytes()[:-500])
    refused(naming=[file, "broken image", "row 3"])


def test_a_raised_pixel_limit_is_taken(refused, data):
    (data / "images" / "b.png").write_bytes(png(20_000, 20_000))
    refused("task.image.pixel_limit=500_000_000", naming=["b.png: broken image"])  # past the limit, on to decoding


@pytest.mark.parametrize("name", ["../../secret.png", "link.png"])
def test_a_picture_outside_the_data(refused, data, tmp_path, name):
    Image.new("RGB", (64, 48)).save(tmp_path / "secret.png")
    (data / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    write_table(data / "items.csv", [{**QUESTION, "image": name}])
    refused(naming=[name, "leads out of task.data.root", data / "items.csv", "row 2"])


def test_adapters_that_no_request_would_have(refused):
    refused("+engine.extra.default_mm_loras={image: folder}", naming=["engine.extra.default_mm_loras", "adapters"])


def test_a_picture_too_thin_for_the_model(refused, data, checkpoint):
    processor(checkpoint)
    Image.new("RGB", (6000, 28)).save(data / "images" / "b.png")
    refused(naming=["b.png", "6000 x 28", "200 to 1"])


# --------------------------------------------------------------------------------------------------------------- tables


BAD_TABLES = {
    "no bytes": (b"", ["empty"]),
    "header only": (b"item_id,image,question\n", ["no rows"]),
    "cp1251": ("item_id,image,question\na,a.png,Что это?\n".encode("cp1251"), ["UTF-8", "byte 31"]),
    "no column": (b"item_id,image,text\na,a.png,b\n", ["'question'", "item_id, image, text"]),
    "the same item twice": (
        "item_id,image,question\nx,a.png,1\ny,a.png,2\nx,b.png,3\n".encode(),
        ["row 4", "x", "row 2"],
    ),
    "no picture named": (b"item_id,image,question\na,,b\n", ["row 2", "no image", "column image"]),
    "no question": (b"item_id,image,question\na,a.png,\n", ["row 2", "no question", "question"]),
    "facts not JSON": (b"item_id,image,question,facts\na,a.png,b,E-1047\n", ["row 2", "JSON list", "E-1047"]),
    "facts not a list": (b"item_id,image,question,facts\na,a.png,b,17\n", ["row 2", "JSON list", "17"]),
    "torn quote": (b'item_id,image,question\na,a.png,"b\n', ["cannot be read"]),
    "cells without a column": (b"item_id,image,question\na,a.png,b\na,a.png,b,c,d\n", ["cannot be read", "line 3"]),
    "NUL bytes": (b"\0" * 100, []),
}


@pytest.mark.parametrize("content, complaint", BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_bad_table(refused, data, content, complaint):
    (data / "items.csv").write_bytes(content)
    refused(naming=[data / "items.csv", *complaint])


def test_a_bad_workbook(refused, data):
    (data / "items.xlsx").write_bytes((data / "items.csv").read_bytes())
    refused("task.data.layouts.items.table=items.xlsx", naming=[data / "items.xlsx", "cannot be read"])


def test_a_kind_of_table_that_is_not_read(refused, data):
    (data / "items.ods").write_bytes(b"")
    refused("task.data.layouts.items.table=items.ods", naming=["items.ods", ".csv, .jsonl, .xlsx, .parquet"])


def test_a_mapping_to_no_field_of_ours(refused, data):
    refused("+task.data.layouts.items.columns.answer=reference", naming=["columns.answer", "item_id, image, question"])


# ---------------------------------------------------------------------------------------------------------------- roots


@both
def test_a_root_that_is_not_there(refused, tmp_path):
    refused(f"task.data.root={tmp_path / 'nowhere'}", naming=["task.data.root", tmp_path / "nowhere", "no such folder"])


def test_a_root_without_known_tables(refused, tmp_path):
    refused(f"task.data.root={tmp_path}", naming=[tmp_path, "items.csv", "questions.csv", "screenshots/"])


@pytest.mark.parametrize("study", ["seed_vqa", "seed_screen_annotation"])
def test_a_published_study_without_its_data(study):
    with pytest.raises(BadInput, match="^task.data.root: no value given; .*task.data.root=FOLDER$"):
        preflight.check(composed(f"experiment={study}", "model=local"))


def test_a_published_study_without_its_data_from_the_command_line(vlm_eval_cli, tmp_path):
    ended = vlm_eval_cli("experiment=seed_vqa", "model=local")
    check_refusal(ended, tmp_path, ["task.data.root", "no value given", "task.data.root=FOLDER"])


# --------------------------------------------------------------------------------------------------- values in the task


@pytest.mark.parametrize(
    "override, naming",
    [
        ("task.on_bad_item=ignore", ["task.on_bad_item=ignore", "fail or record"]),
        ("task.repeats=0", ["task.repeats=0", "at least 1"]),
        ("task.system=nowhere.txt", ["task.system=nowhere.txt", "no such prompt file"]),
        ("task.sampling.max_tokens=many", ["task.sampling.max_tokens", "many"]),
    ],
)
def test_a_value_the_task_cannot_use(refused, override, naming):
    refused(override, naming=naming)


# ---------------------------------------------------------------------------------------------------------- checkpoints


def processor(folder, **more):
    """A Qwen2-VL's picture settings and a tokenizer with a token for each word, made here."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    settings = {"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 1_003_520, **more}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


@both
def test_a_prompt_longer_than_the_context(refused, data, checkpoint, tmp_path):
    processor(checkpoint)
    system = tmp_path / "system.txt"
    system.write_text("Слово " * 50)
    Image.new("RGB", (280, 140)).save(data / "images" / "b.png")  # 10 x 5 visual tokens
    line = refused(
        "engine.max_model_len=113",
        f"task.system={system}",
        "task.sampling.max_tokens=10",
        naming=["b: its prompt of 54 text and 50 visual tokens", "need 114", "engine.max_model_len=113", "max_tokens"],
    )
    assert "task.image.max_pixels" in line


def test_a_prompt_that_just_fits_is_taken(data, checkpoint, tmp_path):
    processor(checkpoint)
    (tmp_path / "system.txt").write_text("Слово " * 50)
    Image.new("RGB", (280, 140)).save(data / "images" / "b.png")
    values = ["task.sampling.max_tokens=10", "engine.max_model_len=114", f"task.system={tmp_path / 'system.txt'}"]
    checkpoint = f"model.path={checkpoint}"
    plan = preflight.check(with_values("model=local", "task=vqa", checkpoint, f"task.data.root={data}", *values))
    assert (plan.items, plan.answers) == (3, 3)


def test_pixel_limits_the_wrong_way_round(refused, checkpoint):
    processor(checkpoint)
    refused("task.image.min_pixels=5000", "task.image.max_pixels=4000", naming=["min_pixels=5000", "max_pixels=4000"])


@both
def test_a_quantisation_that_is_not_published(refused):
    refused("quant=gptq4", model=["model=qwen2_5_vl_3b"], naming=["quant=gptq4", "Qwen2.5-VL-3B", "bf16, awq"])


def test_no_model_given(refused):
    refused("model.path=null", naming=["model.path", "model.path=FOLDER"])


@both
@pytest.mark.parametrize("model", ["local", "demo"])
@pytest.mark.parametrize("path", ["nope/ckpt", "/nope"])
def test_a_checkpoint_folder_that_is_not_there(refused, model, path):
    model = [f"model={model}", f"model.path={path}"]
    line = refused("quant=gptq8", "sweep.dry_run=true", model=model, naming=[])
    assert line == f"vlm-eval: model.path={path}: no such checkpoint folder\n"


def test_a_checkpoint_folder_that_a_yaml_names_and_that_is_not_there(refused):
    said = refused(model=["model=local", "+model.checkpoints.bf16=/nope"], naming=[])
    assert said == "vlm-eval: /nope: no such checkpoint folder\n"


def test_what_a_checkpoint_is_told_apart_by(checkpoint):
    """Also of a file that a download left torn."""
    weights = checkpoint / "model.safetensors"
    found = []
    for content in (b"", b"\x01", b"\xff" * 8, struct.pack("<Q", 2) + b"{}weights"):
        weights.write_bytes(content)
        found.append(checkpoints.fingerprint(str(checkpoint)))
    assert len(set(found)) == 4
    weights.write_bytes(struct.pack("<Q", 2) + b"{}WEIGHTS")
    assert checkpoints.fingerprint(str(checkpoint)) == found[-1]  # of safetensors the header alone
    with pytest.raises(BadInput, match=f"^{weights}: no such checkpoint folder$"):
        checkpoints.fingerprint(str(weights))


@both
def test_a_checkpoint_without_config(refused, checkpoint):
    (checkpoint / "config.json").unlink()
    refused(naming=[checkpoint / "config.json", "missing"])


@pytest.mark.parametrize("text", ['{"model_type": "qwen2', "", "[]"])
def test_a_checkpoint_with_broken_config(refused, checkpoint, text):
    (checkpoint / "config.json").write_text(text)
    refused(naming=[checkpoint / "config.json", "JSON"])


@both
@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json"])
def test_a_checkpoint_with_other_broken_files(refused, checkpoint, name):
    processor(checkpoint)
    (checkpoint / name).write_text('{"patch_size": ')
    refused(naming=[checkpoint / name])


AWQ = {"quant_method": "awq", "bits": 4}
GPTQ8 = {"quant_method": "gptq", "bits": 8}


@pytest.mark.parametrize(
    "quantisation, quant, found",
    [
        (AWQ, "gptq4", "awq with 4 bits"),
        (GPTQ8, "gptq4", "gptq with 8 bits"),
        (AWQ, "bf16", "awq with 4 bits"),
        (None, "awq", "not quantised"),
    ],
)
def test_a_checkpoint_that_is_not_what_quant_says(refused, checkpoint, quantisation, quant, found):
    (checkpoint / "config.json").write_text(json.dumps({"quantization_config": quantisation} if quantisation else {}))
    refused(f"quant={quant}", naming=[checkpoint, found, f"quant={quant}"])


@pytest.mark.parametrize("quantisation, quant", [(AWQ, "awq"), (GPTQ8, "gptq8"), (None, "bf16")])
def test_a_checkpoint_that_is_what_quant_says_is_taken(data, tmp_path, quantisation, quant):
    folder = make_checkpoint(tmp_path / "other", **({"quantization_config": quantisation} if quantisation else {}))
    values = [f"model.path={folder}", f"task.data.root={data}"]
    assert preflight.check(with_values("model=local", "task=vqa", f"quant={quant}", *values)).items == 3


# --------------------------------------------------------------------------------------------------------------- sweeps


def test_a_sweep_of_no_points(vlm_eval_cli, tmp_path):
    ended = vlm_eval_cli("-m", "model=demo", "quant=glob(zz*)")
    check_refusal(ended, tmp_path, ["no points", "quant=glob(zz*)"])


def test_the_same_point_twice(vlm_eval_cli, tmp_path):
    ended = vlm_eval_cli("-m", "model=local", "quant=bf16,awq,bf16")
    check_refusal(ended, tmp_path, ["the same point twice", "local-bf16-screen_annotation"])


def test_one_bad_point_stops_all_and_is_named(vlm_eval_cli, tmp_path, data, checkpoint):
    base = ["model=local", f"model.path={checkpoint}", "task=vqa", f"task.data.root={data}"]
    ended = vlm_eval_cli("-m", *base, "quant=bf16,awq")
    check_refusal(ended, tmp_path, ["not quantised", "quant=awq", "[in local-awq-vqa-"])


@pytest.mark.parametrize("more", [[], ["-m"], ["-m", "run.seed=0,1"]])
def test_a_sweep_to_go_on_with_that_is_not_there(vlm_eval_cli, tmp_path, more):
    ended = vlm_eval_cli(*more, "model=demo", f"sweep.resume={tmp_path / 'nowhere'}")
    check_refusal(ended, tmp_path, [])
    what = "no sweep.json there; give the folder of an earlier sweep"
    assert ended.err == f"vlm-eval: sweep.resume={tmp_path / 'nowhere'}: {what}\n"


# -------------------------------------------------------------------------------------------------- what is not refused


def read_task(root, *overrides):
    """The task as a run has it."""
    return config.build(with_values("task=vqa", f"task.data.root={root}", *overrides).task)


def test_bad_items_can_be_kept_as_rows(data):
    write_table(
        data / "items.csv",
        [
            {**QUESTION, "item_id": "good"},
            {**QUESTION, "item_id": "gone", "image": "nowhere.png"},
            {**QUESTION, "item_id": "silent", "question": ""},
            {**QUESTION, "item_id": "out", "image": "../../x.png"},
        ],
    )
    items = read_task(data, "task.on_bad_item=record").items()
    assert [item.item_id for item in items] == ["good", "gone", "silent", "out"]
    assert items[0].error is None and items[0].width == 64
    for item, complaint in zip(items[1:], ["nowhere.png: no such image", "no question", "leads out"]):
        assert complaint in item.error


def test_a_table_of_bad_items_alone_is_refused_all_the_same(data):
    write_table(data / "items.csv", [{**QUESTION, "image": "nowhere.png"}])
    with pytest.raises(BadInput, match="not one usable item.*nowhere.png"):
        read_task(data, "task.on_bad_item=record").items()


ROWS = [
    {
        "item_id": "007",
        "image": "a.png",
        "question": "Что «это»,\nпочему?",
        "reference": "NA",
        "facts": '["1 ₽", "E-1"]',
    },
    {"item_id": "1.50", "image": "a.png", "question": "null", "reference": "", "facts": ""},
]


def write_as(kind, path):
    import pandas as pd

    frame = pd.DataFrame(ROWS)
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "bom":
        frame.to_csv(path, index=False, encoding="utf-8-sig")
    elif kind == "jsonl":
        lines = [{**row, "facts": json.loads(row["facts"] or "null")} for row in ROWS]  # a list, as JSON has it
        path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    elif kind == "xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_parquet(path)


@pytest.mark.parametrize(
    "kind, ending", [("csv", "csv"), ("bom", "csv"), ("jsonl", "jsonl"), ("xlsx", "xlsx"), ("parquet", "parquet")]
)
def test_every_kind_of_table_gives_the_same_items(data, kind, ending):
    write_as(kind, data / f"table.{ending}")
    items = read_task(data, f"task.data.layouts.items.table=table.{ending}").items()
    found = [(i.item_id, i.question, i.reference, i.facts) for i in items]
    assert found == [
        ("007", "Что «это»,\nпочему?", "NA", ("1 ₽", "E-1")),
        ("1.50", "null", None, ()),
    ]


def test_numbers_in_json_lines_and_parquet_are_read_as_they_are_written(tmp_path):
    import pandas as pd

    (tmp_path / "t.jsonl").write_text('{"item_id": 7, "image": "a.png"}\n{"item_id": 8, "image": null}\n')
    pd.DataFrame({"item_id": [7, 8], "image": ["a.png", None]}).to_parquet(tmp_path / "t.parquet")
    expected = [{"item_id": "7", "image": "a.png"}, {"item_id": "8", "image": ""}]
    assert tables.read_table(tmp_path / "t.jsonl") == expected
    assert tables.read_table(tmp_path / "t.parquet") == expected


def test_a_schema_names_a_key_that_the_yaml_misspells():
    node = OmegaConf.create({"_target_": "vlm_eval.tasks.vqa.Vqa", "name": "vqa", "system": "vqa.ru.txt", "repeat": 3})
    with pytest.raises(BadInput, match=r"task.repeat: no such key; did you mean repeats\?"):
        config._with_schema(node, "task")


@pytest.mark.parametrize(
    "override",
    [
        "task.repeats=0",
        "task.sampling.temperature=-1",
        "task.sampling.top_p=0",
        "task.sampling.max_tokens=0",
        "task.image.min_pixels=-5",
        "task.image.max_pixels=0",
    ],
)
def test_a_number_out_of_its_range_is_named_with_the_range(vlm_eval_cli, override):
    ended = vlm_eval_cli(override, "sweep.dry_run=true")
    assert ended.code == 2
    assert ended.err.startswith(f"vlm-eval: {override.partition('=')[0]}=") and "at least" in ended.err
    assert len(ended.err.splitlines()) == 1


# ----------------------------------------------------------------------------------------------------------------- load


BAD_LOADS = {
    "engine.load=[4,0]": ["engine.load=0", "at least 1"],
    "engine.load=[-1]": ["engine.load=-1", "at least 1"],
    "engine.load=[1,4,4]": ["engine.load: 4 stands there twice"],
    "engine.load=[1.5]": ["engine.load"],
    "engine.load=4": ["engine.load"],
    "engine.rates=[0]": ["engine.rates=0", "above 0"],
    "engine.rates=[0.5,-2]": ["engine.rates=-2", "above 0"],
    "engine.rates=[.inf]": ["engine.rates=inf", "above 0"],
    "engine.rates=[.nan]": ["engine.rates=nan", "above 0"],
    "engine.load_requests=0": ["engine.load_requests=0", "at least 1"],
}


@pytest.mark.parametrize("override, naming", BAD_LOADS.items(), ids=BAD_LOADS)
def test_a_load_that_is_none(refused, override, naming):
    refused(override, naming=naming)


@both
def test_a_load_that_is_none_by_the_command(refused):
    refused("engine.load=[4,0]", naming=["engine.load=0", "at least 1"])
