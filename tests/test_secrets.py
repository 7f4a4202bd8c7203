"""What counts as a key, what is refused and what is masked; that keys are kept out of everything: test_canaries.py."""

from __future__ import annotations

import base64
import json
import re
import sys
from urllib.parse import quote

import pytest
from omegaconf import OmegaConf

from vlm_eval import checkpoints, paths, secrets
from vlm_eval.config import ModelConfig
from vlm_eval.engines import vllm_check
from vlm_eval.engines.base import Candidate
from vlm_eval.engines.vllm import VllmEngine, VllmEngineConfig
from vlm_eval.errors import BadInput, one_line
from vlm_eval.metrics.bleurt import Bleurt, BleurtConfig
from vlm_eval.metrics.perplexity import Perplexity, PerplexityConfig
from vlm_eval.provenance import inputs
from vlm_eval.rows import Answer
from vlm_eval.secret_input import guarded, refuse_in_arguments, refuse_in_config
from vlm_eval.store import RunFolder

from .helpers import FAULTY, QUICK, composed, make_checkpoint, make_data

LETTERS = "a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6"
KEYS = [  # none is real; put together here, so that no scanner of this repository takes them for real ones
    f"sk-{LETTERS}",
    f"sk-proj-{LETTERS}-{LETTERS}",
    f"sk-ant-api03-{LETTERS}",
    "AKIA" + "ABCDEFGHIJKLMNOP",
    f"ghp_{LETTERS}",
    f"github_pat_{LETTERS}",
    f"hf_{LETTERS}",
    f"glpat-{LETTERS}",
    f"xoxb-{LETTERS}",
    f"AIza{LETTERS}",
    f"gsk_{LETTERS}",
    f"eyJ{LETTERS}.eyJ{LETTERS}.{LETTERS}",
]
NO_KEYS = [
    "sk-learn-and-other-names-of-packages",
    "openai/gpt-4o-mini-2024-07-18",
    "Qwen/Qwen2-VL-7B-Instruct-GPTQ-Int4",
    "0123456789abcdef0123456789abcdef",  # an MLflow run id
    "http://127.0.0.1:8000/v1",
    "postgresql://me@127.0.0.1/mlflow",
    "${oc.env:MLFLOW_TRACKING_URI,http://127.0.0.1:5000}",
    "me@example.org",
    "../multirun/2026-01-02_03-04-05-ab12",
]


# --------------------------------------------------------------------------------------------------- what is a secret


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_known_by_its_shape(key):
    assert secrets.secret_in(f"see {key}, there") == "looks like a key"
    assert secrets.mask(f"see {key}, there") == f"see {secrets.MASK}, there"
    assert not secrets.names_a_variable(key)


@pytest.mark.parametrize("text", NO_KEYS)
def test_names_hashes_and_addresses_are_no_keys(text):
    assert secrets.secret_in(text) is None
    assert secrets.mask(text) == text


@pytest.mark.parametrize(
    "text, masked",
    [
        ("http://me:pass@host/v1", "http://me:***@host/v1"),
        ("postgresql+psycopg://me:pa/ss#1@host/db", "postgresql+psycopg://me:***@host/db"),
        ("https://token-alone@host", "https://***@host"),
        ("https://host/v1?a=1&api_key=abc&b=2", "https://host/v1?a=1&api_key=***&b=2"),
        ('{"Authorization": "Bearer abcdefgh12345"}', '{"Authorization": "Bearer ***"}'),
        ("api_key: 12345", "api_key: ***"),
        ("password=12345 user=me", "password=*** user=me"),
        ("api_key: null", "api_key: null"),
        ("api_key_env: OPENAI_API_KEY", "api_key_env: OPENAI_API_KEY"),
        ("raise ValueError(api_key=get(key))", "raise ValueError(api_key=get(key))"),
        ("/etc/passwd: leads out of task.data.root", "/etc/passwd: leads out of task.data.root"),
        ("../x/db.password: No such file", "../x/db.password: No such file"),
        ("/etc/passwd: password=a", "/etc/passwd: password=***"),
        ("KeyError: 'hf_token': unexpected", "KeyError: 'hf_token': unexpected"),
        ("judge.api_key: no such key", "judge.api_key: no such key"),
        ("of api_key: correct1", "of api_key: ***"),
        ("of api_key: Correct", "of api_key: ***"),
        ("of api_key: correcthorsebatt", "of api_key: ***"),
        ("of api_key:correct", "of api_key:***"),
        ("of api_key=correct", "of api_key=***"),
        ("of api_key: 'correct'", "of api_key: ***"),
        ("judge:\n  api_key: correct horse", "judge:\n  api_key: *** horse"),
        ("{api_key: correct, hf_token: horse}", "{api_key: ***, hf_token: ***}"),
    ],
    ids=range(23),  # or the text would stand in pytest's own PYTEST_CURRENT_TEST, and be a variable's
)
def test_what_is_masked_in_a_text(text, masked):
    assert secrets.mask(text) == masked
    assert secrets.mask(masked) == masked


@pytest.mark.parametrize(
    "name, secret",
    [
        ("judge.api_key", True),
        ("engine.extra.hf_token", True),
        ("x.headers.Authorization", True),
        ("db.password", True),
        ("hydra.job.env_set.OPENAI_API_KEY", True),
        ("judge.api_key_env", False),
        ("task.sampling.max_tokens", False),
        ("engine.extra.eos_token", False),
        ("engine.columns.key", False),
    ],
)
def test_an_options_name_says_whether_its_value_is_secret(name, secret):
    assert secrets.is_secret_name(name) is secret
    assert secrets.mask_option(name, "anything") == (secrets.MASK if secret else "anything")


def test_variables_are_secret_by_name_by_their_option_and_by_a_password_in_them(monkeypatch, tmp_path):
    monkeypatch.setattr(secrets, "_named", set())
    values = {
        "SOME_API_KEY": "plain words, but a key",
        "GIT_TOKEN": "abcdefgh",
        "SHORT_TOKEN": "EMPTY",
        "KEY_FILE_TOKEN": str(tmp_path),  # a path
        "SORT_KEY": "by_name_of_the_file",
        "PROJECT_KEY": LETTERS,
        "SOME_PROXY": "http://me:p%40ssword@proxy:8080",
        "GATEWAY": "known to an option alone",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    here = {name for name, _ in secrets.secrets_here() if name in values}
    assert here == {"SOME_API_KEY", "GIT_TOKEN", "PROJECT_KEY", "SOME_PROXY"}
    assert secrets.mask("said p@ssword and p%40ssword") == "said *** and ***"
    assert secrets.mask(values["GATEWAY"]) == values["GATEWAY"]
    secrets.know_variable("GATEWAY")
    assert secrets.mask(values["GATEWAY"]) == secrets.MASK


def test_a_variables_value_is_masked_however_it_is_written(monkeypatch):
    value = "wörds 'quoted'\nand/a second line"
    monkeypatch.setenv("SOME_SECRET", value)
    as_base64 = base64.b64encode(value.encode()).decode().rstrip("=")
    for form in (value, quote(value), quote(value, safe=""), repr(value)[1:-1], json.dumps(value), as_base64):
        left = secrets.mask(f"<{form}>")
        assert secrets.MASK in left and "wörds" not in left and "second" not in left and as_base64 not in left, form
    assert secrets.mask("wörds 'quoted'") == secrets.MASK  # a line of it


# ------------------------------------------------------------------------------------------------------------- refusal


def test_no_config_of_this_project_is_refused():
    """Every option of every group, and every experiment."""
    from hydra import compose, initialize_config_dir

    from vlm_eval.resolvers import register_resolvers

    register_resolvers()
    # Groups whose options other options need first are covered by the experiments.
    asked = [
        [f"{group}={file.stem}"]
        for group in ("model", "quant", "engine", "judge", "metrics", "tracking", "task", "experiment")
        for file in sorted((paths.conf() / group).glob("*.yaml"))
    ]
    assert len(asked) > 30
    with initialize_config_dir(str(paths.conf()), version_base="1.3"):
        for overrides in asked:
            refuse_in_config(compose("config", overrides, return_hydra_config=True))


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "model=demo", "judge.api_key_env=OPENAI_API_KEY", "judge.api_base=http://127.0.0.1:8000/v1"],
        ["judge.api_key_env=FIRST_KEY,SECOND_KEY", "judge.api_key=null", "~judge.api_key"],
        ["metrics=[tech,rouge]", "engine.extra={max_tokens:5}", "task.sampling.max_tokens=12"],
        ["sweep.resume=multirun/2026-01-02_03-04-05-ab12", "--config-dir", "conf", "--cfg", "job"],
    ],
)
def test_a_usual_command_line_is_not_refused(arguments):
    refuse_in_arguments(arguments)


def test_the_value_that_is_refused_is_not_shown_and_the_way_out_is(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", LETTERS)
    for arguments, said in (
        (["engine.api_key=abc"], "engine.api_key holds a key; export the key and give the variable's name: engine."),
        (["+x=" + LETTERS], "x: holds what the variable MY_TOKEN holds; export"),
        (["--uri", "http://me:pass@h"], "--uri: holds a password; give the address without it: MLFLOW_TRACKING_USER"),
        (["judge.api_key_env=" + KEYS[0]], "judge.api_key_env: not the name of a variable"),
        ([KEYS[0]], "argument 1: looks like a key"),
    ):
        with pytest.raises(BadInput) as refused:
            refuse_in_arguments(arguments)
        message = str(refused.value)
        assert message.startswith(said) and LETTERS not in message and "pass@" not in message
        assert secrets.mask(message) == message  # it is shown through the mask


def test_an_option_that_is_what_a_secret_variable_holds_is_refused_whatever_its_letters(
    vlm_eval_cli, monkeypatch, tmp_path
):
    monkeypatch.setenv("DB_PASSWORD", "correct-horse-battery")
    monkeypatch.setenv("SHORT_PASSWORD", "battery")
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\ntracking:\n  experiment: correct-horse-battery\n")
    refused = [
        ["tracking.experiment=correct-horse-battery"],
        ["tracking.experiment='correct-horse-battery'"],
        ["-m", "task.system=correct-horse-battery,another"],
        ["--config-dir", str(tmp_path / "mine"), "experiment=mine"],
    ]
    for asked in refused:
        ended = vlm_eval_cli(*asked, *QUICK[:2])
        assert (ended.code, ended.out) == (2, "") and ended.err.count("\n") == 1, ended
        assert re.match(r"vlm-eval: (tracking\.experiment|task\.system): holds what .* DB_PASSWORD holds;", ended.err)
        assert list((tmp_path / "cwd").iterdir()) == []
    # A part of it by chance, and a word that is too short to be looked for.
    refuse_in_arguments(["task.data.root=of-correct-horse-battery", "tracking.experiment=battery"])


# ------------------------------------------------------------------------------------------------------------- masking


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "a key of no shape at all")
    return "a key of no shape at all"


def test_a_commands_output_and_its_traceback_are_masked(key, capsys, monkeypatch):
    @guarded("program")
    def main() -> int:
        print("out", key)
        print("err", key, file=sys.stderr)
        raise RuntimeError(f"with {key}")

    monkeypatch.setattr(sys, "argv", ["program"])
    assert main() == 1
    out, err = capsys.readouterr()
    assert out == "out ***\n" and err.startswith("err ***\n") and "RuntimeError: with ***" in err
    assert key not in out + err


@pytest.mark.parametrize(
    "asked, option, variable",
    [
        (["judge=gpt4o_mini_pairwise"], "judge", "OPENAI_API_KEY"),
        (["judge=deepseek", "task=vqa"], "judge", "DEEPSEEK_API_KEY"),
        (["model=gpt4o"], "engine", "OPENAI_API_KEY"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_key_that_is_not_set_or_cannot_be_one_is_said_in_words_that_go_out_whole(
    vlm_eval_cli, monkeypatch, asked, option, variable
):
    monkeypatch.delenv(variable, raising=False)
    ended = vlm_eval_cli(*asked, "tracking=none")
    said = f"vlm-eval: {option}.api_key_env={variable} is not set; export it, or name another variable\n"
    assert ended == (2, "", said)
    monkeypatch.setenv(variable, "a key with a ₽")
    ended = vlm_eval_cli(*asked, "tracking=none")
    said = f"vlm-eval: {option}.api_key_env={variable} holds characters that no key has\n"
    assert ended == (2, "", said)


def test_cfg_job_is_masked(vlm_eval_cli, tmp_path):
    """What Hydra shows of a config, before anybody could refuse it."""
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package _global_\njudge:\n  api_key: words of a key\n  note: http://me:pw@h\n"
    )
    ended = vlm_eval_cli("--config-dir", str(tmp_path / "mine"), "experiment=mine", *QUICK[1:], "--cfg", "job")
    assert ended.code == 0 and "api_key: ***" in ended.out and "note: http://me:***@h" in ended.out
    assert "words of a key" not in ended.out + ended.err and "pw@" not in ended.out + ended.err


def test_what_goes_to_files_and_to_mlflow_is_masked(key, tmp_path):
    folder = RunFolder(tmp_path)
    folder.set_status("failed", "generate", f"401 for {key}")
    folder.append("answers", [Answer("a", 0, "a", None, error=f"401 for {key}")])
    folder.replace("judgements", [Answer("a", 0, "a", f"the model's own text: {KEYS[0]}", error=None)])
    assert folder.status()["error"] == "401 for ***" and folder.read("answers")[0].error == "401 for ***"
    assert KEYS[0] in (tmp_path / "judgements.jsonl").read_text()  # data, not ours to change
    assert one_line(RuntimeError("x " * 40 + key), 100).endswith("x ***")  # masked before it is cut

    cfg = composed("judge=none", "metrics=tech")
    cfg = OmegaConf.merge(cfg, OmegaConf.create({"engine": {"extra": {"hf_token": "x", "note": f"http://u:{key}@h"}}}))
    assert {k: v for k, v in inputs(cfg).items() if k.startswith("engine.extra.")} == {
        "engine.extra.hf_token": "***",
        "engine.extra.note": "http://u:***@h",
    }


def test_a_log_is_masked_in_place_and_who_appends_to_it_goes_on(key, tmp_path):
    file = tmp_path / "run.log"
    with open(file, "ab", buffering=0) as log:
        log.write(b"\xff one " + key.encode() + b"\r\n")
        secrets.mask_file(file)
        log.write(b"two\n")
    assert file.read_bytes() == b"\xff one ***\r\ntwo\n"
    secrets.mask_file(tmp_path / "none.log")
    assert not (tmp_path / "none.log").exists()


def test_an_old_runs_files_with_a_key_are_not_brought_into_mlflow(vlm_eval_cli, tmp_path, monkeypatch, capfd):
    from vlm_eval import import_sweep

    data = make_data(tmp_path / "data")
    ended = vlm_eval_cli(*FAULTY, *QUICK, "task=vqa", f"task.data.root={data}")
    run = tmp_path / "cwd" / ended.out.strip()
    config = run / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("judge:\n", "judge:\n  api_key: words of a key\n"))
    monkeypatch.setattr(sys, "argv", ["mlflow-import", str(run), "--uri", "sqlite:///store.db"])
    assert import_sweep.main() == 2
    err = capfd.readouterr().err
    assert f"{config}: judge.api_key holds a key" in err and "words" not in err
    assert not (tmp_path / "cwd" / "store.db").exists()


# --------------------------------------------------------------------------------------------------------- screenshots


@pytest.mark.parametrize("keep", ["true", "false"])
def test_no_screenshot_goes_to_mlflow_where_none_may(vlm_eval_cli, tmp_path, keep):
    """Nor in the report, which shows them all and is kept with the sweep."""
    data = ["task=vqa", f"task.data.root={make_data(tmp_path / 'data')}"]
    ended = vlm_eval_cli("-m", *FAULTY, *data, "judge=none", "metrics=tech", f"tracking.screenshots={keep}")
    assert ended.code == 0, ended
    kept = (f for f in (tmp_path / "cwd" / "mlruns" / "artifacts").rglob("*") if f.is_file())
    artifacts = {f: f.read_bytes() for f in kept if "plots" not in f.parts}  # plots are pictures, of numbers
    assert {"report.md", "summary.json"} <= {f.name for f in artifacts}
    held = [f for f, content in artifacts.items() if content[:3] in (b"\x89PN", b"\xff\xd8\xff")]
    held += [f for f, content in artifacts.items() if b"data:image/jpeg" in content]  # as the page holds them
    assert bool(held) is (keep == "true"), held


# ------------------------------------------------------------------------------------------- code and pickles of others


def engine_of(folder, trust=False, **more) -> VllmEngine:
    model = ModelConfig("m", path=str(folder), trust_remote_code=trust)
    cfg = composed("judge=none", "metrics=tech")
    from vlm_eval.config import QuantConfig, build

    image = build(cfg.task).config.image
    return VllmEngine(VllmEngineConfig("x", **more), Candidate(model, QuantConfig("bf16"), image, 0))


@pytest.fixture
def pickled(tmp_path):
    folder = make_checkpoint(tmp_path / "pickled", model_type="bleurt")
    for name in ("pytorch_model.bin", "spm.model", "tokenizer.json", "training_args.bin"):
        (folder / name).write_bytes(b"a pickle")
    return folder


def test_a_checkpoint_that_is_a_pickle_is_refused_by_name_before_it_is_loaded(pickled):
    why = rf"{pickled}: its weights are pytorch_model.bin, a pickle"
    for metric in (Perplexity(PerplexityConfig("x", str(pickled))), Bleurt(BleurtConfig("x", str(pickled)))):
        with pytest.raises(BadInput, match=why):
            metric.check()
    with pytest.raises(BadInput, match=why + ".*engine.load_format=pt"):
        engine_of(pickled).check(None, [])
    with pytest.raises(BadInput, match=why):
        checkpoints.refuse_pickle(str(pickled), "")
    # Asked for by name, or with safetensors beside it, it is not refused.
    assert Perplexity(PerplexityConfig("x", str(pickled), use_safetensors=False)).check() is None
    assert Bleurt(BleurtConfig("x", str(pickled), use_safetensors=False)).check() is None
    asked = engine_of(pickled, load_format="pt")
    vllm_check.check_code(asked.config, asked.candidate, str(pickled))
    (pickled / "model.safetensors").write_bytes(b"safe")
    assert Perplexity(PerplexityConfig("x", str(pickled))).check() is None
    usual = engine_of(pickled)
    vllm_check.check_code(usual.config, usual.candidate, str(pickled))


def test_code_of_a_checkpoint_runs_only_where_asked_by_name_and_is_said_then(tmp_path, capsys):
    folder = make_checkpoint(tmp_path / "own_code")
    with pytest.raises(BadInput, match="engine.extra.trust_remote_code: .* model.trust_remote_code"):
        engine_of(folder, extra={"trust_remote_code": True}).check(None, [])
    with pytest.raises(BadInput, match="engine.extra.enable_prefix_caching: .* engine.prefix_cache"):
        engine_of(folder, extra={"enable_prefix_caching": True}).check(None, [])
    assert ModelConfig("m").trust_remote_code is False
    engine_of(folder).check(None, [])
    assert capsys.readouterr().err == ""
    for _ in range(2):
        engine_of(folder, trust=True).check(None, [])
    said = f"vlm-eval: model.trust_remote_code=true: Python code that comes with {folder} runs on this machine\n"
    assert capsys.readouterr().err == said  # once for all points of a sweep
