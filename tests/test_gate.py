"""scripts/gate: who passes, who does not and why, and the exit code that CI acts on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vlm_eval import gate
from vlm_eval.rows import Answer, Judgement, Score
from vlm_eval.store import RunFolder, write_json

from .helpers import REPO, make_data, write_table

SHOTS, REPEATS = 12, 3
TECH = {"tech/latency_s_p95": 1.5, "tech/latency_s_p50": 0.5, "tech/gpu_peak_gib": 20.0, "tech/host_peak_gib": 3.0}


class Sweep:
    """A sweep's folder as vlm-eval leaves it; each run of so good a candidate against the same references."""

    def __init__(self, root: Path):
        self.root, self.points = root, []

    def run(self, quant, level, model="m", task="t", state="ok", lost=(), **more):
        """`level`: the candidate's mean score. `lost`: answers without text. `more`: summary, judge, judges, shots,
        overrides, column."""
        overrides = [f"model={model}", f"quant={quant}", f"task={task}", *more.get("overrides", [])]
        name = f"{model}-{quant}-{task}-{len(self.points)}"
        self.points.append({"folder": name, "overrides": overrides})
        write_json(self.root / "sweep.json", {"points": self.points, "cwd": str(self.root)})
        if state == "missing":
            return name
        folder = RunFolder(self.root / name)
        (folder.path / ".hydra").mkdir(parents=True)
        main = more.get("judge", {"name": "j"})
        groups = {"model": {"name": model}, "quant": {"name": quant}, "task": {"name": task}, "judge": main}
        OmegaConf.save(OmegaConf.create(groups), folder.path / ".hydra" / "config.yaml")
        folder.set_status(state, error=None if state == "ok" else "CUDA out of memory")
        folder.provenance(judge={"judge_model": "some/model", **more.get("judge_facts", {})})
        write_json(folder.path / "summary.json", more.get("summary", TECH))
        for n, key in enumerate(
            (f"i{shot}", repeat) for shot in range(more.get("shots", SHOTS)) for repeat in range(REPEATS)
        ):
            text = None if n in lost else "текст"
            folder.append("answers", [Answer(*key, f"s{key[0]}", text, error=None if text else "died")])
            if "column" in more:
                values = {} if text is None else {more["column"]: level + 0.1 * (-1) ** n, "language": "ru"}
                folder.append("scores", [Score(*key, values)])
                continue
            for judge in more.get("judges", ["j"]):
                scores = (None, None) if text is None else (level + (-1) ** (n // REPEATS), 8.0)
                status = "not_asked" if text is None else "ok"
                folder.append(
                    "judgements",
                    [Judgement(*key, judge, order, 0, True, *scores, "", status) for order in ("ab", "ba")],
                )
        return name


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


@pytest.fixture
def ask(sweep, monkeypatch, capsys):
    """`ask("--max-gib", "24") -> (exit code, all it said)`, with the baseline bf16 and the margin 0.03."""

    def run(*more, baseline="quant=bf16", margin="0.03"):
        fixed = ["gate", str(sweep.root), "--baseline", baseline, "--margin", margin]
        monkeypatch.setattr(sys, "argv", [*fixed, *map(str, more)])
        code = gate.main()
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def reason(said, name):
    [line] = [line for line in said.splitlines() if line.startswith(f"{name}: ")]
    return line.removeprefix(f"{name}: ")


def test_who_passes_and_why(sweep, ask):
    sweep.run("bf16", 6.0)
    awq, gptq = sweep.run("awq", 5.99), sweep.run("gptq4", 5.2)
    code, said = ask("--max-latency-p95", 2, "--max-gib", 24)
    assert code == 0
    assert reason(said, awq).startswith("passes: lower: -0.00125 ")  # different, by less than the margin
    assert reason(said, gptq) == "may be worse by 0.1, the margin is 0.03"
    assert said.endswith("1 of 2 candidates pass against quant=bf16\n")
    row = next(line for line in said.splitlines() if line.startswith(gptq))
    assert row.split() == [gptq, "0.650", "-0.100", "-0.100", "-0.100", "1.500", "20.00", "GPU", "0%", "no"]
    assert next(line for line in said.splitlines() if "baseline" in line).split()[1] == "0.750"


def test_worse_is_what_cannot_be_ruled_out(sweep, ask):
    """Five screenshots, scores that vary much: the difference is 0, but one of the margin could hide in it."""
    sweep.run("bf16", 6.0, shots=5)
    loud = sweep.run("awq", 6.0, shots=5)
    folder = RunFolder(sweep.root / loud)
    shaken = [
        j.__class__(**{**vars(j), "candidate_score": 6 + 2 * (-1) ** int(j.item_id[1:])})
        for j in folder.read("judgements")
    ]
    folder.replace("judgements", shaken)
    code, said = ask()
    assert code == 1 and reason(said, loud).startswith("may be worse by 0.")
    assert ask(margin="0.9")[0] == 0


@pytest.mark.parametrize(
    "limit, summary, why",
    [
        (("--max-latency-p95", 1), TECH, "tech/latency_s_p95 1.5 s is over 1"),
        (
            ("--max-latency-p95", 1),
            {**TECH, "tech/latency_s_p95": None},
            "cannot say: no tech/latency_s_p95, it needs 20",
        ),
        (("--max-gib", 19), TECH, "tech/gpu_peak_gib 20 GiB is over 19"),
        (("--max-gib", 2), {"tech/host_peak_gib": 3.0}, "tech/host_peak_gib 3 GiB is over 2"),
        (("--max-gib", 2), {}, "cannot say: no tech/host_peak_gib"),
    ],
)
def test_limits(sweep, ask, limit, summary, why):
    sweep.run("bf16", 6.0)
    name = sweep.run("awq", 6.0, summary={k: v for k, v in summary.items() if v is not None})
    code, said = ask(*limit)
    assert code == 1 and reason(said, name).startswith(why)
    assert ask(limit[0], 100)[0] == (1 if "cannot say" in why else 0)
    assert ask()[0] == 0  # no limit was asked for


def test_a_candidate_cannot_win_by_failing(sweep, ask):
    """Better than the baseline on what it answered, and it answered less."""
    sweep.run("bf16", 6.0)
    name = sweep.run("awq", 6.5, lost=(0, 7, 20))
    code, said = ask()
    assert code == 1
    assert reason(said, name) == "8.3% of its answers failed, of the baseline's 0.0%; " + (
        "8.3% of its answers have no score, of the baseline's 0.0%"
    )
    assert ask("--max-failed-rise", 0.1)[0] == 0


def test_lost_judgements_count_as_well(sweep, ask):
    sweep.run("bf16", 6.0)
    name = sweep.run("awq", 6.5)
    folder = RunFolder(sweep.root / name)
    folder.replace("judgements", folder.read("judgements")[10:])
    code, said = ask()
    assert code == 1 and reason(said, name) == "13.9% of its answers have no score, of the baseline's 0.0%"


@pytest.mark.parametrize("state", ["failed", "interrupted", "missing"])
def test_a_run_that_did_not_end_well_does_not_pass(sweep, ask, state):
    sweep.run("bf16", 6.0)
    name, good = sweep.run("awq", 7.0, state=state), sweep.run("gptq8", 6.0)
    code, said = ask()
    assert code == 0 and "passes" in reason(said, good)
    assert reason(said, name) == f"the run is {state}" + ("" if state == "missing" else ": CUDA out of memory")
    assert ask("--candidate", "quant=awq")[0] == 1


def test_nothing_passes_against_a_baseline_that_failed(sweep, ask):
    sweep.run("bf16", 6.0, state="failed")
    name = sweep.run("awq", 9.0)
    code, said = ask()
    assert code == 1 and reason(said, name) == "cannot say: the baseline is failed"


def test_under_five_screenshots_it_cannot_say(sweep, ask):
    sweep.run("bf16", 6.0, shots=4)
    name = sweep.run("awq", 9.0, shots=4)
    code, said = ask()
    assert code == 1 and reason(said, name).startswith("cannot say: no interval: 4 screenshots")


def test_another_judge_is_no_comparison(sweep, ask):
    sweep.run("bf16", 6.0)
    name = sweep.run("awq", 6.0, judge_facts={"judge_prompt_sha256": "other"})
    code, said = ask()
    assert code == 1 and reason(said, name).startswith("another judge, or another prompt")


def test_named_candidates_must_all_pass_and_others_do_not_matter(sweep, ask):
    sweep.run("bf16", 6.0)
    for quant, level in (("awq", 6.0), ("gptq8", 6.0), ("gptq4", 4.0)):
        sweep.run(quant, level)
    assert ask("--candidate", "quant=awq", "--candidate", "quant=gptq8")[0] == 0
    code, said = ask("--candidate", "quant=awq", "--candidate", "quant=gptq4")
    assert code == 1 and "gptq8" not in said and "1 of 2 candidates pass" in said
    code, said = ask("--candidate", "quant=fp8")
    assert code == 2 and "--candidate matches none" in said


def test_models_have_baselines_of_their_own_unless_one_is_named(sweep, ask):
    sweep.run("bf16", 7.0, model="big")
    sweep.run("bf16", 5.0, model="small")
    big, small = sweep.run("awq", 7.0, model="big"), sweep.run("awq", 5.0, model="small")
    code, said = ask()
    assert code == 0 and "2 of 2 candidates" in said
    code, said = ask(baseline="quant=bf16,model=big")
    assert (
        "passes" in reason(said, big) and "may be worse by 0.25" in reason(said, small) and "1 of 3 candidates" in said
    )
    code, said = ask(baseline="model=big")
    assert code == 2 and "2 runs match" in said


def test_a_candidate_passes_when_it_does_on_every_task(sweep, ask):
    for task, awq in (("screens", 6.0), ("vqa", 4.0)):
        sweep.run("bf16", 6.0, task=task)
        sweep.run("awq", awq, task=task)
    code, said = ask()
    assert code == 1 and "0 of 1 candidates" in said
    assert ask("--candidate", "quant=awq,task=screens")[0] == 0


@pytest.mark.parametrize("lower, code", [((), 0), (("--lower-is-better",), 1)])
def test_a_metric_of_the_scores(sweep, ask, lower, code):
    sweep.run("bf16", 0.5, column="errors")
    name = sweep.run("awq", 0.7, column="errors")
    found, said = ask("--metric", "errors", *lower)
    assert found == code and ("may be worse by 0.2," in reason(said, name)) == bool(lower)


def test_without_judgements_a_metric_must_be_chosen(sweep, ask):
    sweep.run("bf16", 0.5, column="rouge1_f")
    sweep.run("awq", 0.5, column="rouge1_f")
    for more in ((), ("--metric", "bleu"), ("--metric", "language")):
        code, said = ask(*more)
        assert code == 2 and said.endswith("--metric takes a column of scores.jsonl: rouge1_f\n")


def test_the_main_judge_decides_and_another_only_when_named(sweep, ask):
    for quant, level in (("bf16", 6.0), ("awq", 6.0)):
        name = sweep.run(quant, level, judges=["j"])
        lean = 3.0 if quant == "awq" else 6.0
        RunFolder(sweep.root / name).append(
            "judgements",
            [
                Judgement(f"i{n}", r, "k", "ab", 0, True, lean, 8.0, "", "ok")
                for n in range(SHOTS)
                for r in range(REPEATS)
            ],
        )
    assert ask()[0] == 0
    assert ask("--judge", "k")[0] == 1
    code, said = ask("--judge", "nobody")
    assert code == 2 and "no run has an ok judgement of nobody" in said


def test_a_panels_members_judge_together_and_strangers_are_asked_about(sweep, ask):
    panel = {"name": "panel", "members": {"a": {"name": "j"}, "b": {"name": "k"}, "c": None}}
    for quant in ("bf16", "awq"):
        sweep.run(quant, 6.0, judges=["j", "k"], judge=panel)
    assert ask()[0] == 0
    sweep.run("gptq8", 6.0, judges=["j", "k"], judge={})
    code, said = ask()
    assert code == 2 and "several judges, choose one with --judge: j, k" in said


def test_what_cannot_be_meant(sweep, ask, tmp_path, capsys):
    code, said = ask()
    assert code == 2 and "no sweep.json here" in said
    sweep.run("bf16", 6.0)
    assert ask()[0] == 2  # a baseline alone
    sweep.run("awq", 6.0)
    code, said = ask(baseline="quant=fp8")
    assert code == 2 and "no run matches, among those of task t and model m" in said
    for wrong in ({"baseline": "bf16"}, {"margin": "0"}, {"margin": "nan"}):
        with pytest.raises(SystemExit, match="2"):
            ask(**wrong)


def test_the_script_after_a_real_sweep(vlm_eval_cli, tmp_path):
    """Replayed answers: the names of models and quantisations, the latencies and ROUGE are those of vlm-eval itself."""
    data = make_data(tmp_path / "data", count=7)
    texts = {"M": "Чат", "M-AWQ": "Чат", "M-GPTQ-Int4": "Окно с чатом"}
    rows = [
        {"model_name": m, "item_id": item, "repeat": r, "candidate": text, "time_s": len(text) / 3 + r / 10}
        for m, text in texts.items()
        for item in "abcdefg"
        for r in range(3)
    ]
    write_table(Path("answers.csv"), rows)  # a path from where one stands, as people give it
    fixed = ("engine=replay_seed", "engine.path=answers.csv", f"task.data.root={data}")
    ended = vlm_eval_cli(
        "-m", *fixed, "engine.candidate=all", "task=vqa", "judge=none", "metrics=[tech,rouge]", "tracking=none"
    )
    assert ended.code == 0, ended.err
    [folder] = Path("multirun").iterdir()

    def script(*more):
        options = ("--baseline", "quant=bf16", "--margin", "0.05", "--metric", "rouge1_f", *more)
        done = subprocess.run(
            [REPO / "scripts" / "gate", folder.resolve(), *options], cwd=tmp_path, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    code, said = script("--max-latency-p95", "2")
    assert code == 0 and "1 of 2 candidates pass against quant=bf16" in said, said
    [awq] = [line for line in said.splitlines() if line.startswith("M-awq-vqa") and ": " in line]
    assert awq.endswith("passes: no difference in any of 7 screenshots")
    [gptq] = [line for line in said.splitlines() if line.startswith("M-gptq4-vqa") and ": " in line]
    assert "may be worse by " in gptq and "tech/latency_s_p95 4.2 s is over 2" in gptq
    assert script("--candidate", "quant=gptq4")[0] == 1
    code, said = script("--max-gib", "24")
    assert code == 1 and "cannot say: no tech/host_peak_gib" in said  # a table does not tell
    code, said = script("--baseline", "engine.candidate=M")
    assert code == 0 and "against engine.candidate=M" in said
