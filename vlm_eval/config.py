"""The root schema, the schemas of the chosen components, and configuration errors in one line.

Hydra composes; this module checks. A component's own schema is the dataclass beside its class, named `<Class>Config`
and found through `_target_`, so a new component brings its schema with it and nothing is registered anywhere.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
import traceback
from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlm_eval import paths
from vlm_eval.errors import BadInput, printable

# Keys that say how something is run, not what comes out.
HOW_IT_IS_RUN = (
    *("sweep.", "statistics.", "hydra.", "tracking", "run.timeout_s"),
    *("engine.tracking_uri", "judge.tracking_uri", "reference.tracking_uri"),
    *(
        f"{who}.{key}"
        for who in ("engine", "judge")
        for key in ("cache", "budget_usd", "concurrency", "retries", "timeout_s", "max_fail_rate")
    ),
)


@dataclass
class ModelConfig:
    """A model and where its checkpoints are: a Hugging Face name or a folder for each quantisation."""

    name: str = "???"
    checkpoints: Dict[str, str] = field(default_factory=dict)
    path: Optional[str] = None  # one folder for whatever `quant` says it holds
    revision: Optional[str] = None
    trust_remote_code: bool = False
    litellm: Optional[str] = None  # what LiteLLM calls a model behind an API
    # For the memory estimate where no checkpoint is on this disk yet:
    parameters: Optional[float] = None  # all of them
    linear_parameters: Optional[float] = None  # of the decoder's linear layers, the ones that are quantised
    kv_bytes_per_token: Optional[int] = None


@dataclass
class QuantConfig:
    """A quantisation: what must be found loaded. `method` is null for an unquantised model, `bits` where none is."""

    name: str = "???"
    method: Optional[str] = None
    bits: Optional[int] = 16


@dataclass
class ReferenceConfig:
    """Whose answers the candidate's are held against; nothing set: the references of the data set's own table."""

    run: Optional[str] = None  # a run folder, a sweep folder or an MLflow run id
    candidate: Optional[str] = None
    repeat: Optional[int] = None
    tracking_uri: Optional[str] = None


@dataclass
class RunConfig:
    seed: int = 0
    timeout_s: Optional[float] = None  # the whole run, seconds


@dataclass
class SweepConfig:
    resume: Optional[str] = None  # folder of an earlier sweep: do what is missing there
    dry_run: bool = False
    prefetch: int = 1  # runs that are prepared before there is a card for them; 0: one run after another


@dataclass
class StatisticsConfig:
    """What the end of a sweep says of its runs together."""

    baseline: Optional[str] = None  # KEY=VALUE[,KEY=VALUE]: the run that the others of its task are held against
    margin: Optional[float] = None  # a difference of match ratios that would not matter; None: nothing is equivalent


@dataclass
class RootConfig:
    model: ModelConfig = field(default_factory=ModelConfig)
    quant: QuantConfig = field(default_factory=QuantConfig)
    engine: Any = None
    task: Any = None
    judge: Any = None
    metrics: Any = None
    tracking: Any = None
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    run: RunConfig = field(default_factory=RunConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)


def hash8(overrides: Any) -> str:
    """Eight hex digits of a run's overrides, whatever their order; how the sweep is run is not part of them."""
    kept = sorted(o for o in map(str, overrides) if not is_how_it_is_run(o))
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:8]


def is_how_it_is_run(override: str) -> bool:
    return override.lstrip("+").startswith(HOW_IT_IS_RUN)


def quoted(name: str) -> str:
    """A name as Hydra's override grammar takes any text: backslashes count only before a quote. Bare is only what it
    takes for text too: Latin letters, and neither a number nor null."""
    if re.fullmatch(r"(?!(null|true|false|nan|inf)$)[a-z][\w.-]*", name, re.ASCII | re.IGNORECASE):
        return name
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + (m[2] and "\\'"), name) + "'"


def as_hydra_takes_it(argument: str) -> str:
    """statistics.baseline=quant=bf16 with the quotes that Hydra wants around a value with "=" in it."""
    key, _, value = argument.partition("=")
    if key.lstrip("+") != "statistics.baseline" or "=" not in value or value.startswith(("'", '"')):
        return argument
    return f"{key}={quoted(value)}"


def validate(cfg: DictConfig) -> DictConfig:
    """Merge every schema into the composed config; a misspelt key or a wrong type is a BadInput that names it."""
    cfg = OmegaConf.masked_copy(cfg, [k for k in cfg if k != "hydra"])
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(RootConfig), cfg)
        for group in ("engine", "task", "judge", "tracking"):
            cfg[group] = _with_schema(cfg[group], group)
        cfg.metrics = cfg.metrics or {}  # null after ~metrics
        for name in cfg.metrics:
            cfg.metrics[name] = _with_schema(cfg.metrics[name], f"metrics.{name}")
        missing = OmegaConf.missing_keys(cfg)
        if missing:
            raise BadInput(f"{sorted(missing)[0]}: no value given; set it, e.g. {sorted(missing)[0]}=...")
        # A broken interpolation shows here, not in the run; and a component built from its part needs no other.
        OmegaConf.resolve(cfg)
    except OmegaConfBaseException as error:
        raise BadInput(explain(error)) from error
    return cfg


def _with_schema(node: DictConfig, where: str) -> DictConfig:
    if not isinstance(node, DictConfig) or OmegaConf.select(node, "_target_") is None:
        raise BadInput(f"{where}: no _target_; it names the class that does the work")
    schema = getattr(*_schema_of(node._target_, where), None)
    if schema is None:
        raise BadInput(f"{where}._target_: {node._target_} has no dataclass {_schema_of(node._target_)[1]} beside it")
    try:
        return OmegaConf.merge(OmegaConf.structured(schema), node)
    except OmegaConfBaseException as error:
        raise BadInput(explain(error, where)) from error


def _schema_of(target: str, where: str = "") -> tuple[Any, str]:
    module, _, cls = target.rpartition(".")
    try:
        return importlib.import_module(module), f"{cls}Config"
    except (ImportError, ValueError) as error:
        raise BadInput(f"{where}._target_: {target} cannot be imported: {error}") from error


def build(node: DictConfig, *dependencies: Any) -> Any:
    """The object a component's config stands for: `_target_(schema instance, *dependencies)`."""
    module, schema = _schema_of(node._target_)
    typed = OmegaConf.merge(OmegaConf.structured(getattr(module, schema)), node)
    return getattr(module, schema.removesuffix("Config"))(OmegaConf.to_object(typed), *dependencies)


def build_part(node: DictConfig, where: str) -> Any:
    """build() for a component inside another's config, which validate() does not look into."""
    return build(_with_schema(node, where))


def model_and_quant(cfg: DictConfig) -> tuple[ModelConfig, QuantConfig]:
    """The two groups every engine needs, as plain objects."""
    return OmegaConf.to_object(cfg.model), OmegaConf.to_object(cfg.quant)


def flat(cfg: DictConfig) -> dict[str, Any]:
    """Every leaf under its dotted name, as MLflow params want it."""

    def walk(prefix: str, node: Any):
        if isinstance(node, dict) and node:
            for key, value in node.items():
                yield from walk(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            yield prefix, node

    return dict(walk("", OmegaConf.to_container(cfg, resolve=True)))


def text_at(cfg: DictConfig, key: str) -> Optional[str]:
    """A config value as text; of a group, such as quant, its name. None where there is none."""
    try:
        found = OmegaConf.select(cfg, key)
        found = found.get("name") if isinstance(found, DictConfig) else found
    except OmegaConfBaseException:
        return None
    return None if found is None else str(found)


def explain(error: Exception, where: str = "") -> str:
    """An OmegaConf error as one line: the key, what is wrong with it, and what there is instead."""
    key = getattr(error, "full_key", None) or ""
    key = ".".join(part for part in (where, str(key)) if part)
    node = getattr(error, "parent_node", None)
    name = str(getattr(error, "key", "") or key.rpartition(".")[2])
    known = _known_keys(error, node)
    if name not in known and ("not in struct" in str(error) or "not in '" in str(error)):
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        there = ", ".join(known) or "nothing to set"
        return f"{key}: no such key; {hint}{key.rpartition('.')[0] or 'the config'} has: {there}"
    return f"{key}: {str(error).splitlines()[0]}" if key else str(error).splitlines()[0]


def _known_keys(error: Exception, node: Any) -> list[str]:
    kind = getattr(error, "object_type", None)
    names = getattr(kind, "__dataclass_fields__", None)
    if names is None and isinstance(node, DictConfig):
        names = node.keys()
    return sorted(str(n) for n in names or [] if n != "_target_")


def is_about_config(error: Exception) -> bool:
    """Whether an exception says that what was asked for is wrong, rather than that this program is."""
    from hydra.errors import HydraException
    from yaml import YAMLError

    if isinstance(error, (BadInput, HydraException, OmegaConfBaseException, YAMLError)):
        return True
    # Hydra answers GROUP=null with a bare ValueError of its own, 5000 digits with Python's, += with an assertion.
    *_, raised_in = traceback.extract_tb(error.__traceback__)
    of_hydra = any(place in raised_in.filename for place in ("/hydra/_internal/", "/hydra/core/"))
    return isinstance(error, (ValueError, AssertionError)) and of_hydra


def explain_hydra(error: Exception) -> str:
    """A composition error of Hydra as one line."""
    return printable(_explain_hydra(error)) or f"not an override such as KEY=VALUE ({type(error).__name__})"


def _explain_hydra(error: Exception) -> str:
    """The key's siblings come from the OmegaConf error behind it."""
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        return explain(cause)
    if isinstance(error, OmegaConfBaseException):
        return explain(error)
    if getattr(error, "missing_cfg_file", None):
        group, _, option = error.missing_cfg_file.rpartition("/")
        # Of a list such as metrics=[tech,rouge] Hydra does not say what there is.
        options = error.options or sorted(file.stem for file in (paths.conf() / group).glob("*.yaml"))
        close = difflib.get_close_matches(option, options, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{group}={option}: no such option; {hint}{group} has: {', '.join(options)}"
    if getattr(error, "override", None):
        # Hydra's grammar knows Latin letters alone, and blanks, brackets and commas mean something in it.
        quotes = (
            "; quote such a value twice: 'KEY=\"VALUE\"'" if re.search(r"=.*[^A-Za-z0-9_./:,-]", error.override) else ""
        )
        return f"{error.override}: not an override such as KEY=VALUE{quotes}: {str(error).splitlines()[0]}"
    return " ".join(str(error).split())
