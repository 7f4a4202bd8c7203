"""Whatever stands on the command line: a config, or one line that says what is wrong with it."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from vlm_eval import config, paths, resolvers
from vlm_eval.errors import BadInput

KEYS = [
    *("model", "quant", "engine", "task", "judge", "metrics", "tracking", "experiment", "task/data", "hydra.mode"),
    *(
        "run.seed",
        "run.timeout_s",
        "task.repeats",
        "task.data.root",
        "task.sampling.temperature",
        "task.image.pixel_limit",
    ),
    *(
        "statistics.baseline",
        "statistics.margin",
        "sweep.dry_run",
        "model.path",
        "judge._target_",
        "metrics.rouge",
        "task",
    ),
    *(
        "task.data.layouts",
        "task.data.layouts.items.columns",
        "model.checkpoints",
        "nothing",
        "judge.model",
        "",
        "a b",
        "ы",
    ),
]
VALUES = [
    *(
        "null",
        "",
        "demo",
        "bf16",
        "vqa",
        "none",
        "server",
        "rubric",
        "all",
        "[tech,rouge]",
        "[]",
        "{}",
        "{a:1}",
        "[[",
        "}",
    ),
    *(
        "1",
        "-1",
        "1e400",
        "nan",
        "true",
        "9" * 5000,
        "0x10",
        "1_0",
        "${demo:vqa}",
        "${run.seed}",
        "${nothing}",
        "${",
        "$",
    ),
    *(
        "${oc.env:HOME}",
        "${task.repeats}",
        "../../etc/passwd",
        "'",
        '"',
        "'a=b'",
        "a=b",
        "\\",
        "a,b",
        "range(1,3)",
        "choice(1)",
    ),
    *("os.system", "vlm_eval.nothing.X", "\0", "\n", "Чат", "😀", "glob(*)", "extend_list(1)", "@", "{a:{a:{a:", "???"),
]
override = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "", "", "+", "++", "~", "-", "--"]),
    st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS), st.text(max_size=12)),
    st.sampled_from(["=", "=", "=", "=", "", "@", ":"]),
    st.one_of(st.sampled_from(VALUES), st.sampled_from(VALUES), st.text(max_size=12)),
)


@pytest.fixture(scope="module", autouse=True)
def hydra():
    resolvers.register_resolvers()
    with initialize_config_dir(str(paths.conf()), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def refusal(overrides: list[str]) -> str:
    """What vlm-eval would print of these arguments, "" if it would start; as in cli.main, anything else is a crash."""
    try:
        cfg = config.validate(compose("config", [config.as_hydra_takes_it(o) for o in overrides]))
    except Exception as error:
        if not config.is_about_config(error):
            raise
        said = str(error) if isinstance(error, BadInput) else config.explain_hydra(error)
        assert said
        return said
    assert isinstance(cfg, DictConfig) and OmegaConf.missing_keys(cfg) == set()
    return ""


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(override, min_size=1, max_size=3))
@example(["task.repeats=${task.repeats}"])
@example(["task.data.layouts.items.columns=null"])
@example(["judge=null"])
@example(["metrics.rouge="])
@example(["+="])
@example(["run.seed=" + "9" * 5000])
@example(["model=\n"])
@example(["metrics={a:{a:1}}"])
def test_any_arguments(overrides):
    said = refusal(overrides)
    assert "\n" not in said and "Traceback" not in said


@pytest.mark.long
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(override, min_size=1, max_size=4))
def test_many_more_arguments(overrides):
    said = refusal(overrides)
    assert "\n" not in said and "Traceback" not in said


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
@example("¹")
@example("Квен")
@example("null")
@example("1e5")
def test_a_quoted_name_is_that_name_to_hydra(name):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    [parsed] = OverridesParser.create().parse_overrides([f"model.path={config.quoted(name)}"])
    assert str(parsed.value()) == name
