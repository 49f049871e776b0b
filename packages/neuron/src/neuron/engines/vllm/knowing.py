"""What translating requests for a loaded model needs to know of it: told to the gateways with the replica."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from cortex_core.fleet import ModelFacts
from neuron.engines import probes
from neuron.engines.vllm import arguments


def of(engine: Any, checkpoint: Path, args: Namespace) -> ModelFacts:
    """Facts of the model that `engine` (an AsyncLLM) serves with `args`."""
    config = engine.vllm_config
    model = config.model_config
    reasoning = getattr(config, "reasoning_config", None)
    render = _render(engine, checkpoint, args)
    return ModelFacts(
        context=model.max_model_len,
        vision=bool(model.is_multimodal_model) and hasattr(model.hf_config, "vision_config"),
        reasoning=bool(config.structured_outputs_config.reasoning_parser),
        thinking_budget=bool(getattr(reasoning, "enabled", False)),
        tools=bool(args.enable_auto_tool_choice and args.tool_call_parser),
        system_first=render is None or probes.system_first(render),
        accepts_developer=render is not None and probes.accepts_developer(render),
        thinking_toggle=probes.thinking_toggle(render) if render is not None else "",
    )


def _render(engine: Any, checkpoint: Path, args: Namespace) -> probes.Render | None:
    """Its chat template, as the tokenizer renders it; None: it has none."""
    tokenizer = engine.renderer.tokenizer
    template = arguments.chat_template(checkpoint, args.chat_template)
    if tokenizer is None or not template or not hasattr(tokenizer, "apply_chat_template"):
        return None

    def render(messages: list[dict[str, str]], **kwargs: Any) -> str:
        said = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True, **kwargs
        )
        return said if isinstance(said, str) else ""

    return render
