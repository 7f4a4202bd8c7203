"""The engine of faulty_engine.py with a level of load to be measured, which tells where that is done."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any, AsyncIterator, Sequence

from tests.faulty_engine import FaultyEngine, FaultyEngineConfig, _log
from vlm_eval.engines.base import Level, Request, Streaming


@dataclass
class LoadedEngineConfig(FaultyEngineConfig):
    pass


class LoadedEngine(FaultyEngine):
    def start(self) -> dict[str, Any]:
        self.cards_held = 1
        _log("answers", self.config.mode, str(os.getpid()))
        return super().start()

    def levels(self) -> Sequence[Level]:
        return [Level("concurrency", 2.0, 6)]

    def streaming(self) -> Streaming:
        return Loaded(self.config.mode)


class Loaded(Streaming):
    def __init__(self, mode: str):
        self.mode = mode

    def start(self) -> dict[str, Any]:
        _log("load", self.mode, str(os.getpid()), os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
        return {}

    def prepare(self, requests: Sequence[Request]) -> None:
        pass

    async def stream(self, request: Request) -> AsyncIterator[int]:
        await asyncio.sleep(0.05)
        yield 3

    def stop(self) -> None:
        _log("unload", self.mode)
