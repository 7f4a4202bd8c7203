"""What the YAML files ask for while they are composed: names of folders, bundled files, who gave recorded answers."""

from __future__ import annotations

import re
import secrets
from datetime import datetime
from pathlib import Path
from typing import Optional

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlm_eval import config, paths
from vlm_eval.errors import BadInput


def load_config(run_dir: Path) -> DictConfig:
    """The config of a run folder, checked again (schemas fill in what YAML left out)."""
    register_resolvers()
    return config.validate(OmegaConf.load(run_dir / ".hydra" / "config.yaml"))


def register_resolvers() -> None:
    """What the YAML files use: `${demo:...}` for bundled files, and names of sweep and run folders."""

    def add(name, function, **kw):
        OmegaConf.register_new_resolver(name, function, replace=True, **kw)

    add("demo", paths.demo)
    add("sweep_dir", _sweep_dir, use_cache=True)  # cached: the same random digits for every run of this sweep
    add("hash8", config.hash8)
    add("recorded", _recorded)
    add("data_root", _data_root)
    add("folder_name", _folder_name)
    add("default_model", _default_model)


def _sweep_dir(resume: Optional[str]) -> str:
    return resume or f"multirun/{datetime.now():%Y-%m-%d_%H-%M-%S}-{secrets.token_hex(2)}"


def _recorded(what: str, engine: DictConfig) -> str:
    """`model` or `quant` of the answers that engine=replay replays. What is wrong with them, the pre-flight says."""
    from vlm_eval.engines import replay  # here: a config error need not wait for it

    try:
        model, quant = replay.identity(replay.ReplayEngineConfig(**OmegaConf.to_container(engine, resolve=True)))
    except (BadInput, TypeError, AttributeError, OmegaConfBaseException):
        return "recorded"
    return {"model": model, "quant": quant}[what]


def _data_root(replayed: Optional[str], tracking_uri: Optional[str], layouts: DictConfig, default: str) -> str:
    """Where the data of replayed answers are, if the answers tell: the recorded run's, or beside the table."""
    from vlm_eval.engines import replay

    return (replayed and replay.data_root(replayed, tracking_uri, layouts)) or default


def _folder_name(choice: str, name: Optional[str]) -> str:
    """A group's option as part of a folder's name; of recorded answers, who gave them."""
    return re.sub(r"[^\w.+-]+", "_", str(name)) if choice == "recorded" and name else choice


def _default_model(engine: str) -> str:
    """The model where none is chosen: of an engine that replays (by its option's name), whoever gave the answers."""
    return "recorded" if engine.startswith("replay") else "demo"
