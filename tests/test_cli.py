"""The command line: what it answers at once, what it composes, what it refuses, and in which words."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import vlm_eval
from vlm_eval import config, paths, status
from vlm_eval.rows import Answer
from vlm_eval.store import RunFolder, lock_alone, write_json

from .helpers import VLM_EVAL, composed, make_checkpoint, make_data, python, write_table

GROUPS = {
    folder.relative_to(paths.conf()).as_posix(): sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in [*paths.conf().glob("**/"), paths.conf() / "experiment"]
    if list(folder.glob("*.yaml")) and folder != paths.conf() and folder.name != "common"  # parts of options, no group
}
HEAVY = {"torch", "torchmetrics", "transformers", "vllm", "mlflow", "pandas", "litellm"}

# Runs vlm-eval with its arguments, then prints the exit code and every top-level module that was imported.
IMPORTED = """
import sys
from vlm_eval import cli
try:
    code = cli.main()
except SystemExit as ended:
    code = ended.code
print(code, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def imported(cwd, *arguments: str) -> tuple[str, set[str]]:
    done = python(IMPORTED, *arguments, cwd=cwd)
    code, *modules = done.stdout.splitlines()[-1].split()
    return code, set(modules)


# ------------------------------------------------------------------------------------------------- what answers at once


def test_version_and_help_import_nothing_heavy(tmp_path):
    for flag in ("--version", "--help", "-h"):
        code, modules = imported(tmp_path, flag)
        assert code == "0"
        assert not modules & (HEAVY | {"hydra", "omegaconf", "numpy"}), flag
    assert list(tmp_path.iterdir()) == []


def test_version(vlm_eval_cli):
    assert vlm_eval_cli("--version") == (0, f"vlm-eval {vlm_eval.__version__}\n", "")


def test_help_names_every_group_and_every_option(vlm_eval_cli):
    ended = vlm_eval_cli("--help")
    assert ended.code == 0
    listed, group = {}, None
    for line in ended.out.splitlines():
        if line.endswith("=") and " " not in line:
            group = line[:-1]
            listed[group] = []
        elif group and line.startswith("  "):
            name, *about = line.split()
            assert about, f"conf/{group}/{name}.yaml does not begin with a comment that says what it is"
            listed[group].append(name)
    assert listed == GROUPS


@pytest.mark.parametrize(
    "arguments",
    [("quant=awk",), ("engine.max_modl_len=5",), ("+engine.max_modl_len=5",), ("-m", "quant=awq,bf16", "run.seed=x")],
    ids=" ".join,
)
def test_a_config_error_imports_nothing_heavy(tmp_path, arguments):
    code, modules = imported(tmp_path, *arguments)
    assert code == "2"
    assert not modules & HEAVY


def test_the_installed_command_ends_with_the_exit_code(tmp_path):
    done = subprocess.run([VLM_EVAL, "quant=awk"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    said = "vlm-eval: quant=awk: no such option; did you mean awq? quant has: awq, bf16, gptq4, gptq8, none, recorded\n"
    assert done.stderr == said


def test_completion_offers_the_options_of_a_group(tmp_path):
    env = {**os.environ, "COMP_LINE": "vlm-eval quant=", "COMP_POINT": "15"}
    done = subprocess.run([VLM_EVAL, "-sc", "query=bash"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.split() == [f"quant={option}" for option in GROUPS["quant"]], done.stderr


# ------------------------------------------------------------------------------------------------------ what is refused


def refused(cli, tmp_path, *arguments) -> str:
    """The one line that says no."""
    ended = cli(*arguments)
    assert ended.code == 2, ended
    assert ended.err.startswith("vlm-eval: ") and ended.err.count("\n") == 1, ended.err
    assert ended.out == "" and list((tmp_path / "cwd").iterdir()) == []
    return ended.err


REFUSED = {
    "quant=gtpq4": "quant=gtpq4: no such option; did you mean gptq4? quant has: awq, bf16, gptq4, gptq8",
    "experiment=dmo": "experiment=dmo: no such option; did you mean demo? experiment has: demo, demo_full, mem",
    "metrics=[tech,ruoge]": "metrics=ruoge: no such option; did you mean rouge? metrics has:",
    "enigne=vllm": "enigne: no such key; did you mean engine? the config has: engine,",
    "engine.max_modl_len=5": "engine.max_modl_len: no such key; did you mean max_model_len? engine has: cpu_kv",
    "+engine.max_modl_len=5": "engine.max_modl_len: no such key; did you mean max_model_len? engine has: cpu_kv",
    "task.sampling.top_pp=1": "task.sampling.top_pp: no such key; did you mean top_p? task.sampling has: max_tokens,",
    "+metrics.tech.p99=true": "metrics.tech.p99: no such key; metrics.tech has: nothing to set",
    "engine.max_model_len=many": "engine.max_model_len: Value 'many' of type 'str' could not be converted to Integer",
    "run.timeout_s=soon": "run.timeout_s: Value 'soon' of type 'str' could not be converted to Float",
    "judge=server": "judge.api_base: no value given; set it, e.g. judge.api_base=...",
    "task.name=${nope}": "task.name: Interpolation key 'nope' not found",
    "~judge": "judge: no _target_",
    "quant": "quant: not an override such as KEY=VALUE",
    "quant=[": "quant=[: not an override such as KEY=VALUE",
}


@pytest.mark.parametrize("override, line", REFUSED.items(), ids=REFUSED)
def test_an_override_that_makes_no_sense(vlm_eval_cli, tmp_path, override, line):
    assert f"vlm-eval: {line}" in refused(vlm_eval_cli, tmp_path, "model=demo", override)


@pytest.mark.parametrize(
    "override, line",
    [
        ("quant=awq,gtpq4", "quant=gtpq4: no such option; did you mean gptq4?"),
        ("run.seed=x,1", "run.seed: Value 'x' of type 'str'"),
    ],
    ids=lambda value: value.partition(":")[0],
)
def test_an_override_that_makes_no_sense_in_a_sweep(vlm_eval_cli, tmp_path, override, line):
    assert f"vlm-eval: {line}" in refused(vlm_eval_cli, tmp_path, "-m", "model=demo", override)


OWN = {
    "misspelt root key": ("swep: {dry_run: true}", "swep: no such key; did you mean sweep? the config has: engine,"),
    "misspelt key": ("engine: {max_modl_len: 1}", "engine.max_modl_len: no such key; did you mean max_model_len?"),
    "wrong type": ("task: {repeats: often}", "task.repeats: Value 'often' of type 'str'"),
    "unknown option": ("defaults: [override /judge: nobody]", "judge=nobody: no such option; judge has: deepseek, "),
    "unknown metric": ("metrics: {ruoge: {}}", "metrics.ruoge: no _target_"),
    "unknown key of a metric": ("metrics: {rouge: {kind: L}}", "metrics.rouge.kind: no such key"),
    "unknown class": ("engine: {_target_: no.such.Engine}", "engine._target_: no.such.Engine cannot be imported"),
    "class without schema": (
        "judge: {_target_: builtins.str}",
        "judge._target_: builtins.str has no dataclass strConfig",
    ),
    "not YAML": ("run: [1", "mine.yaml"),
}


@pytest.mark.parametrize("text, line", OWN.values(), ids=OWN)
def test_a_mistake_in_a_study_of_ones_own(vlm_eval_cli, tmp_path, text, line):
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    said = refused(vlm_eval_cli, tmp_path, "--config-dir", str(folder.parent), "model=demo", "experiment=mine")
    assert line in said


def test_a_config_folder_that_is_not_there(vlm_eval_cli, tmp_path):
    assert str(tmp_path / "nowhere") in refused(vlm_eval_cli, tmp_path, "--config-dir", str(tmp_path / "nowhere"))


def test_hydra_full_error_shows_where_it_happened(tmp_path):
    env = {**os.environ, "HYDRA_FULL_ERROR": "1"}
    done = subprocess.run([VLM_EVAL, "quant=awk"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr and "quant/awk" in done.stderr


# -------------------------------------------------------------------------------------------------------- what composes


NEEDED = {  # what an option cannot do without
    "model=local": ["model.path=FOLDER"],
    "engine=replay": ["engine.path=recorded.csv"],
    "engine=replay_seed": ["engine.path=recorded.csv"],
    "judge=local": ["judge.model=FOLDER"],
    "judge=people": ["judge.path=ratings.xlsx"],
    "judge=server": ["judge.model=openai/x", "judge.api_base=http://127.0.0.1:1/v1"],
}


# As many compositions as the largest group has options, each with another option of every group (studies: see below).
CHOSEN = {group: options for group, options in GROUPS.items() if group != "experiment"}
COMPOSITIONS = [
    {group: options[number % len(options)] for group, options in CHOSEN.items()}
    for number in range(max(map(len, CHOSEN.values())))
]


@pytest.mark.parametrize("choices", COMPOSITIONS, ids=lambda choices: " ".join(f"{g}={o}" for g, o in choices.items()))
def test_every_option_of_every_group_composes(choices):
    overrides = [f"{group}={option}" for group, option in choices.items()]
    cfg = composed(*overrides, *(value for o in overrides for value in NEEDED.get(o, [])))
    for group in ("model", "quant", "task"):  # a run's folder is named after the option
        name = cfg[group].name.lower().replace("-instruct", "").replace("-", "_").replace(".", "_")
        # Without its version; recorded and api are named after whoever gives the answers.
        choice = choices[group]
        assert name.replace("_", "").startswith(choice.replace("_", "")) or choice in ("recorded", "api")
    for node in (cfg.task, cfg.judge, cfg.tracking, *cfg.metrics.values()):
        assert type(config.build(node)).__name__ == node._target_.rpartition(".")[2]


@pytest.mark.parametrize(
    "metrics, names",
    [("rouge", ["rouge"]), ("[tech,rouge]", ["tech", "rouge"]), ("default", ["tech", "load", "rouge"]), ("[]", [])],
)
def test_metrics_are_chosen_one_by_one_and_in_lists(metrics, names):
    assert sorted(composed(f"metrics={metrics}").metrics) == sorted(names)


def test_no_metrics_at_all():
    assert composed("~metrics").metrics == {}


# ---------------------------------------------------------------------------------------------------------- the dry run


@pytest.fixture
def model(tmp_path):
    """Overrides for a model of four checkpoints."""
    kinds = {"bf16": None, "awq": ("awq", 4), "gptq4": ("gptq", 4), "gptq8": ("gptq", 8)}
    folders = {}
    for name, kind in kinds.items():
        more = {"quantization_config": dict(zip(("quant_method", "bits"), kind))} if kind else {}
        folders[name] = make_checkpoint(tmp_path / "checkpoints" / name, **more)
    return ["model=local", f"+model.checkpoints={{{','.join(f'{k}:{v}' for k, v in folders.items())}}}"]


def study_data(name, root):
    """Overrides that give a study its data, laid out as it expects."""
    if name.startswith("demo"):
        return []
    make_data(root)
    (root / "images").rename(root / "screenshots")
    if name == "seed_vqa":
        write_table(
            root / "questions.csv", [{"file": "a.png", "question": "Что?", "answer": "Чат", "device": "iPhone"}]
        )
    else:
        write_table(
            root / "references_gpt4o.csv", [{"image": "a", "reference": "Чат"}, {"image": "b", "reference": "Сайт"}]
        )
    return [f"task.data.root={root}"]


@pytest.mark.parametrize("name", GROUPS["experiment"])
def test_every_study_composes_and_is_ready_to_start(vlm_eval_cli, tmp_path, model, name):
    expected = {
        "demo": "8 points, 296 answers, 592 judge calls",
        "demo_full": "8 points, 1432 answers, 2864 judge calls",
        "seed_vqa": "4 points, 4 answers, 0 judge calls",
        "memory": "4 points, 8 answers, 0 judge calls",
        "seed_screen_annotation": "4 points, 40 answers, 0 judge calls",
    }
    data = study_data(name, tmp_path / "data")
    ended = vlm_eval_cli(f"experiment={name}", "sweep.dry_run=true", *model, *data)  # it says itself that it is a sweep
    assert ended.code == 0, ended.err
    assert expected[name] in ended.out
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.parametrize("multirun, quants", [([], ["awq"]), (["-m"], ["awq", "bf16"])], ids=["run", "sweep"])
def test_a_dry_run_shows_the_points_and_starts_nothing(vlm_eval_cli, monkeypatch, tmp_path, model, multirun, quants):
    monkeypatch.setattr("vlm_eval.launch.launch", lambda *_: pytest.fail("a run was started"))
    data = make_data(tmp_path / "data")
    ended = vlm_eval_cli(
        *multirun,
        "sweep.dry_run=true",
        "task=vqa",
        f"task.data.root={data}",
        "task.repeats=2",
        f"quant={','.join(quants)}",
        *model,
    )
    assert (ended.code, ended.err) == (0, "")
    head, _, *rows, total = ended.out.splitlines()
    assert head.split("  ")[0] == "overrides" and [f"quant={q}" in row for q, row in zip(quants, rows)] == [True] * len(
        quants
    )
    assert [row.split()[-5:] for row in rows] == [["3", "6", "unknown", "0", "0.00"]] * len(quants)
    assert f"{len(quants)} points, {6 * len(quants)} answers" in total
    assert list((tmp_path / "cwd").iterdir()) == []


# ------------------------------------------------------------------------------------------------- names of the folders


def test_a_runs_name_does_not_depend_on_the_order_of_its_overrides_nor_on_how_it_is_run():
    name = config.hash8(["model=demo", "quant=awq"])
    assert name == config.hash8(["quant=awq", "model=demo", "sweep.resume=x", "+hydra.verbose=true"])
    assert name != config.hash8(["model=demo", "quant=bf16"]) and len(name) == 8


# ------------------------------------------------------------------------------------------------------ vlm-eval-status


@pytest.fixture
def sweep(tmp_path):
    """A sweep of four runs, as it looks while the second is under way."""
    points = [{"folder": name, "overrides": []} for name in ("done", "under_way", "dead", "not_yet")]
    write_json(tmp_path / "sweep.json", {"points": points})
    for name in ("done", "under_way", "dead"):
        RunFolder(tmp_path / name).set_status("running", "start")
    RunFolder(tmp_path / "done").append("answers", [Answer("a", k, "a.png", "Да") for k in range(3)])
    RunFolder(tmp_path / "done").set_status("ok", tracking="not tracked: no server")
    RunFolder(tmp_path / "dead").set_status("failed", "generate", "killed by SIGKILL")
    return tmp_path


def test_status_says_a_line_a_run(sweep, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vlm-eval-status", str(sweep)])
    with open(sweep / "sweep.lock", "a") as lock:  # as the sweep's process holds it
        assert lock_alone(lock)
        assert status.main() == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["run", "state", "stage", "answers", "seconds", "error"]
    assert rows[2][:3] == ["done", "ok", "3"] and rows[2][4:] == ["not", "tracked:", "no", "server"]
    assert rows[3][:4] == ["under_way", "running", "start", "0"]
    assert rows[4][:4] == ["dead", "failed", "generate", "0"] and rows[4][-3:] == ["killed", "by", "SIGKILL"]
    assert rows[5] == ["not_yet", "waiting", "0"]


def test_status_calls_a_run_died_that_nobody_works_on(sweep, monkeypatch, capsys):
    """Its process and the sweep's were killed, and neither could say so."""
    monkeypatch.setattr(sys, "argv", ["vlm-eval-status", str(sweep)])
    assert status.main() == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[3].split()[:3] == ["under_way", "died", "start"]
    assert rows[5].split() == ["not_yet", "not", "begun", "0"]  # nobody is there that it could wait for


def status_of(folder):
    command = [VLM_EVAL.with_name("vlm-eval-status"), "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_status_of_a_single_run(sweep):
    (sweep / "sweep.json").unlink()
    done = status_of(sweep / "dead")
    assert done.returncode == 0 and done.stdout.splitlines()[2].split()[:4] == ["dead", "failed", "generate", "0"]


def test_status_of_a_folder_that_is_no_sweep(sweep):
    (sweep / "other").mkdir()
    for name, why in {
        "other": "no sweep.json here; give the folder of a sweep or of a single run",
        "dead": "a run of a sweep; give the folder above it",
    }.items():
        done = status_of(sweep / name)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"vlm-eval-status: .: {why}\n")


def test_multirun_may_stand_anywhere(vlm_eval_cli):
    words = ["model=demo", "tracking=none", "sweep.dry_run=true"]
    for place in range(len(words) + 1):
        ended = vlm_eval_cli(*words[:place], "-m", *words[place:], "quant=bf16,awq")
        assert ended.code == 0 and "2 points, " in ended.out, ended.err
