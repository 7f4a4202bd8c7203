"""Run in a fresh process by test_demo_model.py: print, a line for each checkpoint, the log-probabilities vLLM gives to
the tokens of one prompt with a picture, and the quantisation it loaded.

    prompt_logprobs.py CHECKPOINT ...
"""

import json
import os
import sys


def picture():
    """Shapes rather than one colour, so that the visual tokens differ."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (640, 360), (245, 245, 250))
    draw = ImageDraw.Draw(image)
    draw.rectangle([20, 20, 620, 60], fill=(40, 90, 200))
    for row in range(5):
        draw.rectangle([40, 90 + 45 * row, 120 + 90 * row, 115 + 45 * row], fill=(60 * row % 256, 160, 255 - 50 * row))
    draw.rectangle([260, 310, 380, 345], outline="black")
    return image


def main() -> None:
    # Twice in an installed package, where vLLM calls it through its entry point as well: it may be.
    from vlm_eval.engines.vllm_cpu_gptq8 import register

    register()
    import vllm.v1.engine.llm_engine  # noqa: F401

    for checkpoint in sys.argv[1:]:  # one process each, as in a run, with the imports behind it
        if (child := os.fork()) == 0:
            say(checkpoint)
            sys.exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(f"{checkpoint}: see above")


def say(checkpoint: str) -> None:
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=checkpoint,
        dtype="bfloat16",
        max_model_len=2048,
        max_num_seqs=4,
        enforce_eager=True,
        seed=0,
        limit_mm_per_prompt={"image": 1, "video": 0},
    )
    question = {"type": "text", "text": "Опиши скриншот: какие кнопки и сообщения на нём видны?"}
    messages = [
        {"role": "system", "content": "Вы — помощник службы технической поддержки."},
        {"role": "user", "content": [{"type": "image_pil", "image_pil": picture()}, question]},
    ]
    (output,) = llm.chat([messages], SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0), use_tqdm=False)
    values = [
        position[token].logprob
        for token, position in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    ]
    print(json.dumps({"quantization": llm.llm_engine.model_config.quantization, "logprobs": values}), flush=True)


if __name__ == "__main__":
    main()
