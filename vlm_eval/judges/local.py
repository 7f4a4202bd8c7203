"""A Hugging Face model as judge, by vLLM in this process: no server, no key, and no network once it is here.

To everything else it is LiteLLM's provider `local_vllm`. Its engine starts with the first request, when the candidate's
is gone, and ends with the last.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Sequence

from vlm_eval import checkpoints
from vlm_eval.config import ModelConfig, QuantConfig
from vlm_eval.devices import find_device
from vlm_eval.engines import vllm
from vlm_eval.engines.vllm_check import NO_ADAPTERS, RUNTIME_GIB
from vlm_eval.engines.vllm_processor import load_without_copies
from vlm_eval.engines.vllm_prompts import Prompts
from vlm_eval.errors import BadInput
from vlm_eval.judges import providers
from vlm_eval.judges.base import JudgeRequest
from vlm_eval.judges.llm import verdict_schema
from vlm_eval.judges.pairwise import PairwiseJudge, PairwiseJudgeConfig
from vlm_eval.judges.transport import Job, Result, Transport
from vlm_eval.rows import Judgement

PROVIDER = "local_vllm"
SPARE_GIB = 0.5  # of a GPU's free memory, for what CUDA itself takes at the start


@dataclass
class LocalJudgeConfig(PairwiseJudgeConfig):
    model: str = "???"  # a Hugging Face name or a folder; its quantisation is read from its config.json
    revision: Optional[str] = None
    api_base: Optional[str] = None  # it has none
    rationale_chars: int = 600  # longest rationale: small models would not come to their scores by themselves
    dtype: str = "auto"
    max_model_len: int = 8192
    gpu_memory_utilization: float = 0.9
    cpu_kv_cache_gib: int = 1
    cpu_threads: int = 1
    extra: Dict[str, Any] = field(default_factory=dict)


class LocalJudge(PairwiseJudge):
    """Compares as the other judges do; sees the screenshot if its checkpoint has a vision part."""

    def __init__(self, config: LocalJudgeConfig):
        if config.cache:
            raise BadInput("judge.cache: a local judge keeps no replies, a folder's weights may change; leave it null")
        if config.api_base or config.api_key_env:
            raise BadInput("judge.api_base, api_key_env: a local judge has neither; a model behind one is judge=server")
        if "default_mm_loras" in config.extra:
            raise BadInput(f"judge.extra.{NO_ADAPTERS}")
        super().__init__(config)
        self.transport = LocalTransport(config)

    def environment(self) -> dict[str, str]:
        """Variables that must stand before python starts, because torch and vllm read them when imported."""
        return vllm.environment(self.config)

    def card_gib(self) -> Optional[float]:
        return None if find_device().kind == "cuda" else 0.0

    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            "judge_revision": self.config.revision,
            "judge_checkpoint_sha256": checkpoints.fingerprint(self.transport.fetch()),
        }

    def judge(self, requests: Sequence[JudgeRequest], spent_usd: float = 0.0) -> Iterator[list[Judgement]]:
        self.transport.fetch()  # what it sees is known when it is here
        return super().judge(requests, spent_usd)

    def schema(self) -> Any:
        return _bounded_schema(self.config.rationale_chars)


class LocalTransport(Transport):
    """The way to a model that runs in this process, as long as there is something to ask it."""

    def __init__(self, config: LocalJudgeConfig):
        super().__init__(replace(config, model=f"{PROVIDER}/{config.model}"))
        self._model = ModelConfig(config.model, {"": config.model}, revision=config.revision), QuantConfig("")

    def check(self) -> None:
        """The folder is there, or the name may be fetched; memory plausible. Nothing is fetched."""
        config, device = self.config, find_device()
        try:
            folder = checkpoints.on_disk(*self._model)
        except BadInput as error:
            raise BadInput(f"judge.model: {error}") from error
        if folder and config.extra.get("load_format") is None:
            checkpoints.refuse_pickle(folder, "judge.extra.load_format=pt loads them all the same (++ in front of it)")
        if config.extra.get("trust_remote_code"):
            checkpoints.warn_of_code("judge.extra.trust_remote_code", config.model)
        weights = checkpoints.estimate_gib(*self._model, folder)
        if weights is None:
            return
        kv = checkpoints.kv_bytes_per_token(self._model[0], folder) * config.max_model_len / 2**30
        share = config.gpu_memory_utilization if device.kind == "cuda" else 1.0
        if weights + kv + RUNTIME_GIB > device.total_gib * share:
            raise BadInput(
                f"judge.model={self._model[0].name}: needs about {weights + kv + RUNTIME_GIB:.1f} GiB (weights "
                f"{weights:.1f}, KV cache {kv:.1f}), {device.name} offers {device.total_gib * share:.1f}; take a "
                "smaller model or a quantised one, or lower judge.max_model_len"
            )

    def fetch(self) -> str:
        """The checkpoint's folder; downloaded if it is not here yet."""
        return checkpoints.fetch(*self._model)

    def sees_images(self) -> bool:
        """False only for a checkpoint that is here and has no vision part."""
        folder = checkpoints.on_disk(*self._model)
        return folder is None or has_vision(checkpoints.read_config(folder))

    def each(self, jobs: Sequence[Job], work: Callable[[Job], Result]) -> Iterator[Result]:
        engine = EngineThread(functools.partial(load, self.config, self.fetch(), self.sees_images()))
        try:
            providers.register(PROVIDER, engine.complete)
            yield from super().each(jobs, work)
        finally:
            engine.stop()


def has_vision(config: Mapping[str, Any]) -> bool:
    """Whether a config.json, or a part of it, describes a vision part."""
    parts = ("vision_config", "vision_tower", "mm_vision_tower", "img_processor", "visual")
    return any(config.get(part) for part in parts) or any(has_vision(v) for v in config.values() if isinstance(v, dict))


@functools.cache
def _bounded_schema(rationale_chars: int) -> Any:
    import pydantic

    bounded = pydantic.Field(min_length=1, max_length=rationale_chars)
    return pydantic.create_model("Verdict", __base__=verdict_schema("score_a", "score_b"), rationale=(str, bounded))


# ------------------------------------------------------------------------------------------------------- the engine


def load(config: LocalJudgeConfig, folder: str, sees_images: bool) -> Any:
    """A vllm.LLM on this folder."""
    from vllm import LLM
    from vllm.platforms import current_platform

    arguments: dict[str, Any] = dict(
        model=folder,
        load_format="safetensors",
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        max_num_seqs=config.concurrency,
        # This backend bounds a string's length and keeps its escapes; xgrammar then lets control characters in and no
        # quotes. Spaces: a weak model may go on with them for ever.
        structured_outputs_config={"backend": "guidance", "disable_any_whitespace": True},
        seed=0,
    )
    if sees_images:
        arguments["limit_mm_per_prompt"] = {"image": 1, "video": 0}
    if current_platform.is_cpu():
        # Read from here when the engine is made; the candidate's engine has set its own.
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(config.cpu_kv_cache_gib)
        arguments.update(enforce_eager=True, max_num_batched_tokens=max(4096, config.max_model_len))
    else:
        arguments["gpu_memory_utilization"] = min(config.gpu_memory_utilization, _free_share())
    load_without_copies()
    return LLM(**{**arguments, **config.extra})


def _free_share() -> float:
    """Of the GPU's memory, when what the candidate's engine has left in this process is given back: its weights in
    cycles of references, and CUDA graphs, which vLLM would free in the midst of measuring its own memory."""
    import torch
    from vllm.compilation.breakable_cudagraph import BreakableCUDAGraphWrapper
    from vllm.compilation.cuda_graph import CUDAGraphWrapper

    for graphs in (CUDAGraphWrapper, BreakableCUDAGraphWrapper):
        graphs.clear_all_graphs()
    gc.collect()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return (free - SPARE_GIB * 2**30) / total


@dataclass(eq=False)
class _Request:
    messages: Sequence[dict[str, Any]]
    parameters: Mapping[str, Any]
    output: Future = field(default_factory=Future)  # of vLLM's RequestOutput
    given_up: bool = False  # nobody waits any more


class EngineThread:
    """A thread that owns a vllm.LLM and steps its engine, so that what many other threads ask is batched."""

    def __init__(self, load: Callable[[], Any]):
        """Returns when load() is done, and raises what it raised."""
        self._asked: queue.SimpleQueue[Optional[_Request]] = queue.SimpleQueue()
        self._running: dict[str, _Request] = {}
        self._counter = itertools.count()
        self._over = False
        loaded: Future = Future()
        self._thread = threading.Thread(target=self._work, args=(load, loaded), name=PROVIDER, daemon=True)
        self._thread.start()
        loaded.result()

    def complete(self, messages: Sequence[dict[str, Any]], parameters: Mapping[str, Any], seconds: float) -> Any:
        """One reply; providers.register() says what it may raise."""
        request = _Request(messages, parameters)
        self._asked.put(request)
        if self._over:  # looked at after the putting: the thread says it before it empties the queue for the last time
            raise RuntimeError("the judge's engine has stopped")
        try:
            output = request.output.result(seconds)
        except TimeoutError:
            request.given_up = True
            raise
        said = output.outputs[0]
        if said.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended it with {said.finish_reason}")
        return providers.Said(said.text, said.finish_reason, len(output.prompt_token_ids), len(said.token_ids))

    def stop(self) -> None:
        """Ends the engine; what is still under way fails."""
        self._over = True
        self._asked.put(None)
        self._thread.join()

    def _work(self, load: Callable[[], Any], loaded: Future) -> None:
        try:
            llm = load()
        except BaseException as error:
            loaded.set_exception(error)
            return
        loaded.set_result(None)
        reason: BaseException = RuntimeError("the judge's engine was stopped")
        try:
            self._serve(llm)
        except BaseException as error:  # whatever kills an engine; who asked must not wait for ever
            reason = error
        self._over = True
        while not self._asked.empty():
            if request := self._asked.get():
                request.output.set_exception(reason)
        for request in self._running.values():
            request.output.set_exception(reason)
        llm.llm_engine.engine_core.shutdown()

    def _serve(self, llm: Any) -> None:
        engine = llm.llm_engine
        # Its first token is the JSON's; a model that thinks first is told that it has.
        prompts = Prompts(llm, enable_thinking=False)
        while True:
            while not self._running or not self._asked.empty():  # waits only when there is nothing to do
                request = self._asked.get()
                if request is None:
                    return
                self._take(llm, prompts, request)
            for output in vllm.step(engine, len(self._running)):
                if output.finished:
                    self._running.pop(output.request_id).output.set_result(output)
            for key in [key for key, request in self._running.items() if request.given_up]:
                engine.abort_request([key])
                del self._running[key]

    def _take(self, llm: Any, prompts: Prompts, request: _Request) -> None:
        number = str(next(self._counter))
        try:
            llm.llm_engine.add_request(number, prompts.make(request.messages), _sampling(request.parameters))
        except vllm.refusals() as error:  # a prompt that vLLM cannot take, e.g. longer than the context
            request.output.set_exception(ValueError(str(error)))
        else:
            self._running[number] = request


def _sampling(parameters: Mapping[str, Any]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    form = parameters.get("response_format")
    return SamplingParams(
        temperature=parameters.get("temperature", 1.0),
        max_tokens=parameters["max_tokens"],
        structured_outputs=StructuredOutputsParams(json=form["json_schema"]["schema"]) if form else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
