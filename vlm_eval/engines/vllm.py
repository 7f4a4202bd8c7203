"""vLLM's Python engine, inside the run's own process.

vllm and torch are imported in start(), after the environment they read at import is set.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import os
import time
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from vlm_eval import checkpoints, images
from vlm_eval.devices import find_device
from vlm_eval.engines import vllm_check, vllm_inspect, vllm_loaded, vllm_memory, vllm_memory_table, vllm_nan
from vlm_eval.engines.base import Candidate, Engine, Level, Request, Streaming, first_of_each, with_images
from vlm_eval.engines.vllm_nan import NanCounter
from vlm_eval.engines.vllm_processor import load_without_copies
from vlm_eval.engines.vllm_prompts import Prompts, ahead, forget_pictures, image_part, picture, size_of
from vlm_eval.engines.vllm_refusals import refusals, said_in_one_line
from vlm_eval.provenance import version_of
from vlm_eval.rows import Answer, Item, Latency
from vlm_eval.tasks.base import Task

# Answers from which on compiling pays: it takes some 45 s more, and saves some 30 ms an answer (2B and 7B, one H100).
WORTH_COMPILING = 1500


@dataclass
class LatencyPassConfig:
    items: int = 10
    warmup: int = 1


@dataclass
class VllmEngineConfig:
    _target_: str = "???"
    max_model_len: int = 4096
    max_num_seqs: Optional[int] = None
    start: str = "auto"
    dtype: str = "bfloat16"
    load_format: str = "safetensors"
    gpu_memory_utilization: float = 0.9
    cpu_kv_cache_gib: int = 1
    cpu_threads: int = 1
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    image_cache_gib: float = 1.0
    prefix_cache: bool = False
    retries: int = 1
    memory_at: List[int] = field(default_factory=list)
    latency_pass: LatencyPassConfig = field(default_factory=LatencyPassConfig)
    load: List[int] = field(default_factory=list)
    rates: List[float] = field(default_factory=list)
    load_requests: int = 100
    extra: Dict[str, Any] = field(default_factory=dict)

    @property
    def cards(self) -> int:
        """Over so many one engine is spread."""
        return self.tensor_parallel_size * self.pipeline_parallel_size


def environment(config: VllmEngineConfig) -> dict[str, str]:
    """Variables that must stand before python starts, because torch and vllm read them when imported."""
    common = {
        # The engine lives in the run's process: one import, not two. The process ends with the run, and only that
        # frees a GPU for certain (an in-process engine leaves its weights there after shutdown).
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        **vllm_nan.ENVIRONMENT,
    }
    if find_device().kind == "cuda":
        return common
    return {
        **common,
        # libgomp threads that busy-wait for a core another process holds make the same work 5 to 10 times slower.
        "OMP_NUM_THREADS": str(config.cpu_threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_kv_cache_gib),
        # Keep activations in 16 bits on CPUs with AMX, as W4A16 means and as a GPU does it.
        "VLLM_CPU_INT4_W4A8": "0",
    }


def imports_ahead() -> Sequence[str]:
    """What takes long to import, and touches no GPU while it is imported."""
    return ("vllm", "vllm.v1.engine.llm_engine", "vllm.v1.worker.gpu_worker", "transformers", "vlm_eval.run")


def restarts(config: VllmEngineConfig) -> int:
    """How often a run's process is started again after its engine died."""
    return config.retries


class VllmEngine(Engine):
    """One checkpoint in `vllm.LLM`; its `llm_engine` is stepped here, so that answers come out as they finish."""

    def __init__(self, config: VllmEngineConfig, candidate: Candidate):
        self.config, self.candidate = config, candidate
        self.model, self.quant, self.image = candidate.model, candidate.quant, candidate.image
        self.checkpoint = checkpoints.locate(self.model, self.quant)
        self.llm: Any = None
        self._facts: dict[str, Any] = {}
        self._estimated: Optional[vllm_memory.Estimate] = None
        self._memory_key = ""
        self._counter = itertools.count()
        self._warm = self._warm_together = False
        self._nan: Optional[NanCounter] = None
        self._prompts: Optional[Prompts] = None
        self._processor: Optional[dict[str, int]] = None  # of the checkpoint, once it is here

    def need(self, todo: Sequence[Request]) -> Mapping[str, Any]:
        if find_device().kind == "cpu":
            return {"cards": 0}
        if self.config.cards > 1:  # its workers are processes of their own: nothing keeps them to a share
            return {"cards": self.config.cards, "gib": None}
        fast, _ = self._starts_fast(on_cpu=False)
        self._memory_key = vllm_memory.key_of(self.config, self.candidate, self._at_once, fast, self.answers)
        estimated = vllm_memory.estimate(self.config, self.candidate, todo, self._at_once, self._memory_key)
        self._estimated = estimated
        gib = None if estimated is None or self._sets_memory_itself else estimated.total
        return {"cards": 1, "gib": gib}

    @property
    def _sets_memory_itself(self) -> bool:
        return bool({"kv_cache_memory_bytes", "num_gpu_blocks_override"} & self.config.extra.keys())

    def inputs(self) -> Mapping[str, str]:
        folder = self.model.path or (self.checkpoint if checkpoints.is_folder(self.checkpoint) else None)
        # A name on the Hub stands for what it holds, whether that is on this disk yet or not.
        held = checkpoints.fingerprint(folder) if folder else f"{self.checkpoint}@{self.model.revision}"
        return {"checkpoint": held, "vllm": version_of("vllm") or version_of("vllm-cpu") or "none"}

    def check(self, task: Task, items: Sequence[Item]) -> Optional[float]:
        return vllm_check.check(self.config, self.candidate, task, items, self.placed)

    def alone(self, requests: Sequence[Request]) -> list[Request]:
        return first_of_each(requests)[: self.config.latency_pass.items]

    def start(self) -> dict[str, Any]:
        began = time.monotonic()
        from vllm import LLM
        from vllm.platforms import current_platform

        imported = time.monotonic()
        folder = self._made_ready()
        vllm_inspect.inspect(folder)
        load_without_copies()
        on_cpu = current_platform.is_cpu()
        self.cards_held = 0 if on_cpu else self.config.cards
        fast, why = self._starts_fast(on_cpu)
        arguments = self._arguments(on_cpu, fast)
        self.llm = LLM(**{**arguments, **self.config.extra})
        self._nan, self._prompts = NanCounter(self.llm), Prompts(self.llm)
        loaded = vllm_loaded.check_loaded(self.llm, self.quant)
        self._facts = {
            "checkpoint": self.checkpoint,
            "checkpoint_sha256": checkpoints.fingerprint(folder),
            "trust_remote_code": self.model.trust_remote_code,
            **vllm_loaded.engine_facts(self.llm, arguments),
            **loaded,
            "start": why,
            "cards": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "share_gib": self.share_gib,
            "engine_import_s": round(imported - began, 3),
            "engine_start_s": round(time.monotonic() - imported, 3),
        }
        return dict(self._facts)

    def _made_ready(self) -> str:
        """The checkpoint's folder, fetched and checked, when there is memory for it."""
        if self.share_gib is None:
            vllm_check.check_memory(self.config, self.candidate)  # again: others may have taken the card since
        folder = checkpoints.fetch(self.model, self.quant)
        vllm_check.check_code(self.config, self.candidate, folder)
        self._processor = checkpoints.image_limits(folder)
        return folder

    def levels(self) -> list[Level]:
        # With fewer requests than are to be under way at once, they never would be.
        asked = [("concurrency", value, max(value, self.config.load_requests)) for value in self.config.load]
        asked += [("rate", value, self.config.load_requests) for value in self.config.rates]
        return [Level(kind, float(value), requests) for kind, value, requests in asked]

    def streaming(self) -> Streaming:
        from vlm_eval.engines.vllm_load import AsyncVllm

        self._estimated = None  # it has its card to itself, or all that is free of it
        self._made_ready()
        on_cpu = find_device().kind == "cpu"
        fast = on_cpu if self.config.start == "auto" else self.config.start == "fast"
        return AsyncVllm({**self._arguments(on_cpu, fast), **self.config.extra})

    def _arguments(self, on_cpu: bool, fast: bool) -> dict[str, Any]:
        """Of vLLM, before engine.extra."""
        arguments: dict[str, Any] = dict(
            model=self.checkpoint,
            revision=self.model.revision,
            trust_remote_code=self.model.trust_remote_code,
            dtype=self.config.dtype,
            load_format=self.config.load_format,
            max_model_len=self.config.max_model_len,
            max_num_seqs=self._at_once,
            tensor_parallel_size=self.config.tensor_parallel_size,
            pipeline_parallel_size=self.config.pipeline_parallel_size,
            enforce_eager=fast,
            limit_mm_per_prompt={"image": 1, "video": 0},
            seed=self.candidate.seed,
            disable_log_stats=False,  # otherwise RequestOutput.metrics is None and there is no time to first token
            enable_prefix_caching=self.config.prefix_cache,
            mm_processor_cache_gb=self.config.image_cache_gib,  # see _prompt
        )
        if on_cpu:
            # A request with its own seed kills the engine when its prefill is cut in chunks
            # ("CPU Generator does not use offset"), so prompts go in whole.
            arguments.update(enable_chunked_prefill=False, max_num_batched_tokens=max(4096, self.config.max_model_len))
        elif self.share_gib is None:
            arguments["gpu_memory_utilization"] = self.config.gpu_memory_utilization
        elif self._estimated is None or self._estimated.total > self.share_gib:  # all that is free of a card in use
            arguments["gpu_memory_utilization"] = vllm_check.fraction(self.share_gib)
        else:
            arguments.update(vllm_memory.arguments(self._estimated, self.share_gib))
            vllm_memory.keep_within(self.share_gib)
            vllm_memory.forget(self._memory_key)  # it is remembered again when it was enough
        limits = self._pixel_limits()
        if self.image.min_pixels or self.image.max_pixels:
            if limits is None:
                raise RuntimeError(
                    "task.image.min_pixels, max_pixels: this checkpoint's image processor has no such limits"
                )
            arguments["mm_processor_kwargs"] = {"size": {"shortest_edge": limits[0], "longest_edge": limits[1]}}
        return arguments

    def _starts_fast(self, on_cpu: bool) -> tuple[bool, str]:
        """engine.start: whether it starts without compiling, and why."""
        asked = self.config.start
        if asked != "auto":
            return asked == "fast", f"{asked}, as asked"
        if on_cpu:
            return True, "fast: on a CPU"
        if self.config.latency_pass.items:
            return False, "full: latency is measured as production has it"
        if self.answers < WORTH_COMPILING:
            return True, f"fast: {self.answers} answers, under {WORTH_COMPILING}, are made before compiling is done"
        return False, f"full: {self.answers} answers, {WORTH_COMPILING} or more"

    def peaks(self) -> dict[str, Any]:
        """What torch took of the card at most, where this process is the only one of this engine; engine.memory_at."""
        if self.config.cards > 1:
            return {}
        on_gpu = find_device().kind == "cuda"
        cache = vllm_loaded.kv_cache_gib(self.llm, self._facts["kv_bytes_per_token"]) if on_gpu else 0.0
        found = self._activations(cache) if on_gpu else {}
        if self.config.memory_at:
            found["memory"] = vllm_memory_table.measure(self.llm, self.config.memory_at, self._facts, cache)
        return found

    def _activations(self, cache: float) -> dict[str, float]:
        import torch

        taken = torch.cuda.max_memory_reserved() / 2**30
        activations = max(0.0, taken - self._facts["weights_gib"] - cache)
        vllm_memory.remember(self._memory_key, activations)
        return {"kv_cache_gib": round(cache, 3), "activations_gib": round(activations, 3)}

    def answer(self, requests: Sequence[Request]) -> Iterator[list[Answer]]:
        engine, running = self.llm.llm_engine, {}
        if self.config.prefix_cache:  # what was timed alone is not to change what the batch computes
            self.llm.reset_prefix_cache()
        # Prompts are made while the engine works, once for all repeats, and before each step the same number comes in,
        # in order, waited for if need be: what is computed together, and so rounded, does not depend on what took how
        # long. Not many more than work at once, for each has its picture's pixels with it.
        each_step = self._each_step
        at_most = self._at_once + each_step
        depth = max(each_step + 1, at_most // 2)
        alike = (list(same) for _, same in itertools.groupby(requests, operator.attrgetter("image", "messages")))
        with contextlib.closing(ahead(lambda same: self._prompt(same[0]), alike, depth)) as made:
            prepared = ((request, prompt) for same, prompt in made for request in same)
            while True:
                refused = []
                for request, prompt in itertools.islice(prepared, min(each_step, at_most - len(running))):
                    try:
                        running[self._enqueue(request, prompt.result())] = request
                    except refusals() as error:  # a prompt that vLLM cannot take, e.g. longer than the context
                        refused.append(_failed(request, said_in_one_line(error)))
                if not running and not refused:
                    return
                outputs = step(engine, len(running)) if running else []
                finished = [self._read(running.pop(o.request_id), o) for o in outputs if o.finished]
                if refused or finished:
                    yield refused + finished

    def time_alone(self, requests: Sequence[Request]) -> Iterator[list[Latency]]:
        warm = self._warm_up_alone(requests)
        with self._nan.paused() if warm and all(x.error is None for x in warm) else contextlib.nullcontext():
            for request in requests:
                yield [self._one(request)]

    def warm_up(self, requests: Sequence[Request]) -> list[Latency]:
        alone = self._warm_up_alone(requests)
        if self.cards_held and self.config.latency_pass.warmup and not self._warm_together:
            self.warm_up_together(requests)
        return alone

    def _warm_up_alone(self, requests: Sequence[Request]) -> list[Latency]:
        if self._warm:
            return []
        self._warm = True
        return [self._one(request) for request in requests[: self.config.latency_pass.warmup]]

    def warm_up_together(self, requests: Sequence[Request]) -> None:
        """Two tokens of each that the batch begins with: a GPU loads and chooses kernels when it first meets requests
        together, which those timed alone never were. Their pictures are nobody else's, as those of the others are."""
        self._warm_together, engine = True, self.llm.llm_engine
        for request in requests[: self._each_step]:
            short = replace(request, sampling=replace(request.sampling, max_tokens=2))
            with contextlib.suppress(*refusals()):  # said when it is to be answered
                self._enqueue(short, self._prompt(short, picture_id=f"warm-up {short.image}"))
        while engine.has_unfinished_requests():
            for output in engine.step():
                self._nan.take(output.request_id)

    def stop(self) -> None:
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = self._nan = self._prompts = None  # with all pictures that they hold
            forget_pictures()

    def _one(self, request: Request) -> Latency:
        try:
            picture(request.image)  # decoded before the clock starts, for every request alike
            sent = time.monotonic()
            # An identity that no request had before: this picture is prepared from scratch, whatever went before it.
            prompt = self._prompt(request, picture_id=f"alone {next(self._counter)}")
            self._enqueue(request, prompt, shares=False)
        except refusals() as error:
            return Latency(request.item_id, None, error=said_in_one_line(error), repeat=request.repeat)
        prepared = time.monotonic()
        output = None
        while output is None:
            output = next((o for o in step(self.llm.llm_engine, 1) if o.finished), None)
        ended = time.monotonic()
        answer = output.outputs[0]
        if error := self._wrong_with(output):
            return Latency(request.item_id, None, error=error, repeat=request.repeat)
        first = output.metrics.first_token_ts if output.metrics else 0.0  # same monotonic clock, same machine
        return Latency(
            item_id=request.item_id,
            latency_s=ended - sent,
            ttft_s=first - sent if first else None,
            prepare_s=prepared - sent,
            output_tokens=len(answer.token_ids),
            chars=len(answer.text),
            repeat=request.repeat,
        )

    def _prompt(self, request: Request, picture_id: Optional[str] = None) -> Any:
        """Pictures of one `picture_id` are prepared once, then taken from a cache: in the batch, those of one file."""
        size_of(request.image)  # now, when it is decoded: by the time of its answer it may be decoded no more
        return self._prompts.make(
            with_images(request.messages, lambda path: image_part(path, picture_id or request.image))
        )

    def _enqueue(self, request: Request, prompt: Any, shares: bool = True) -> str:
        """Hand it to vLLM; its id. `shares`: the beginning of its prompt may come from engine.prefix_cache."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            max_tokens=request.sampling.max_tokens,
            seed=request.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_reading_prefix_cache=not shares,
        )
        number = str(next(self._counter))
        self.llm.llm_engine.add_request(number, prompt, params)
        return number

    def _read(self, request: Request, output: Any) -> Answer:
        answer = output.outputs[0]
        if error := self._wrong_with(output):
            return _failed(request, error)
        visual = output.prompt_token_ids.count(self._image_token)
        return Answer(
            item_id=request.item_id,
            repeat=request.repeat,
            cluster=request.cluster,
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=len(output.prompt_token_ids),
            output_tokens=len(answer.token_ids),
            seed=request.seed,
            visual_tokens=visual,
            resized=self._resized(request, visual),
            cached_tokens=output.num_cached_tokens if self.config.prefix_cache else None,
        )

    def _wrong_with(self, output: Any) -> Optional[str]:
        """Why a finished request has no answer, if it has none."""
        reason = output.outputs[0].finish_reason
        if count := self._nan.take(output.request_id):
            return f"the model's output is not a number: {count} NaN among its logits"
        return None if reason in ("stop", "length") else f"vLLM ended it with {reason}"

    @functools.cached_property
    def _image_token(self) -> Optional[int]:
        return getattr(self.llm.llm_engine.model_config.hf_config, "image_token_id", None)

    def _resized(self, request: Request, visual_tokens: int) -> Optional[tuple[int, int]]:
        """Width and height as the vision tower saw them; None unless it agrees with the tokens that were counted."""
        limits = self._pixel_limits()
        if limits is None:
            return None
        width, height = size_of(request.image)
        factor = self._processor["factor"]
        height, width = images.smart_resize(height, width, factor, *limits)
        return (width, height) if (height // factor) * (width // factor) == visual_tokens else None

    @property
    def _at_once(self) -> int:
        return self.config.max_num_seqs or (64 if find_device().kind == "cuda" else 16)

    @property
    def _each_step(self) -> int:
        """Requests that come in before one step of the batch."""
        return max(1, self._at_once // 4)

    def _pixel_limits(self) -> Optional[tuple[int, int]]:
        """(min_pixels, max_pixels): the task's where it sets them, else the checkpoint's; None for other processors."""
        return None if self._processor is None else checkpoints.pixel_limits(self.image, self._processor)


def step(engine: Any, under_way: int) -> list[Any]:
    """What came of so many requests in one step; those that it has no more would be waited for without an end."""
    if not engine.has_unfinished_requests():
        raise RuntimeError(f"vLLM lost {under_way} requests")
    return engine.step()


def _failed(request: Request, error: str) -> Answer:
    return Answer(request.item_id, request.repeat, request.cluster, None, seed=request.seed, error=error)
