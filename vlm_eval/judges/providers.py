"""Models of LiteLLM's that answer in this process: to the judges' transport they are providers like any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

from vlm_eval.judges.transport import load_litellm


@dataclass(frozen=True)
class Said:
    """One reply, and its tokens where there are any."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    output_tokens: int = 0


Complete = Callable[[Sequence[dict[str, Any]], Mapping[str, Any], float], Said]


def register(provider: str, complete: Complete) -> None:
    """From now on complete(messages, parameters, seconds) answers for the models `provider/...`.

    Messages and parameters are those of the OpenAI chat protocol. A ValueError means that this request will never
    be answered, a TimeoutError that it took more than these seconds."""
    litellm = load_litellm()

    class Handler(litellm.CustomLLM):
        def completion(self, model, messages, model_response, optional_params, timeout, **_):
            who = {"model": model, "llm_provider": provider}
            try:
                said = complete(messages, optional_params, timeout)
            except ValueError as error:
                raise litellm.BadRequestError(str(error), **who) from error
            except TimeoutError as error:
                raise litellm.Timeout(f"no reply in {timeout:g} s", **who) from error
            except Exception as error:  # LiteLLM would put the whole traceback into its message
                raise litellm.APIError(500, f"{type(error).__name__}: {error}", **who) from error
            choice = model_response.choices[0]
            choice.message.content, choice.finish_reason = said.text, said.finish_reason
            model_response.usage = litellm.Usage(
                prompt_tokens=said.prompt_tokens,
                completion_tokens=said.output_tokens,
                total_tokens=said.prompt_tokens + said.output_tokens,
            )
            return model_response

    others = [known for known in litellm.custom_provider_map if known["provider"] != provider]
    litellm.custom_provider_map = [*others, {"provider": provider, "custom_handler": Handler()}]
