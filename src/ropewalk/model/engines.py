"""The commands that serve a model folder in vLLM, SGLang and llama.cpp, and a warning where an engine differs.

An engine that does not support a method seldom reports it: it runs plain RoPE, or full attention, and answers a little
worse. The statements about llama.cpp were measured (benchmarks/readers.py). Those about vLLM and SGLang were read in
their sources and issues of 2026, and they change. transformers is also a backend of vLLM. So where vLLM's own classes
are not enough, one flag makes it run exactly the verified model.
"""

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.model.folder import read_config
from ropewalk.rope.dynamic import LongRope, longrope_attention
from ropewalk.rope.scaling import Nope
from ropewalk.rope.yarn import Ramp, Yarn
from ropewalk.shape.families import OWN_ARCHITECTURE
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import read_shape
from ropewalk.shape.wrappers import WRAPPERS, find_wrapper, read_text_config

LOADER = "ropewalk.model.load:load_model"

_GGUF_NAMES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Olmo2ForCausalLM": "olmo2",
    "Olmo3ForCausalLM": "olmo2",
    "Gemma3ForCausalLM": "gemma3",
    "SmolLM3ForCausalLM": "smollm3",
}
_REFUSED_BY_LLAMA_CPP = ("MinistralForCausalLM",)
_ODD_WINDOWS = "its OLMo has plain RoPE in windows, over one theta for all layers"
_GGUF_TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


@dataclass(frozen=True, slots=True)
class Serving:
    """How one engine serves a folder. ``command`` is empty if it does not run this model; ``note`` has the reason."""

    engine: str
    command: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Facts:
    """The facts that matter to engines: the class of a folder's text model, and the positions of its layers.

    ``wrapper`` is the multimodal class that holds the text model, None where the folder has a text model alone.
    """

    folder: Path
    architecture: str
    shape: ModelShape
    wrapper: str | None

    @property
    def quoted(self) -> str:
        """The folder as a shell reads it."""
        return shlex.quote(str(self.folder))

    @property
    def ropes(self) -> list[Mapping[str, Any]]:
        """``rope_parameters`` of the layers; SmolLM3 lists layers without RoPE in another key."""
        skips = self.architecture == "SmolLM3ForCausalLM"
        return [
            layer.rope.to_hf(layer.theta)
            for layer in self.shape.positions
            if layer.mixer is None and not (skips and isinstance(layer.rope, Nope))
        ]

    @property
    def kinds(self) -> set[str]:
        return {str(rope["rope_type"]) for rope in self.ropes}

    @property
    def windows(self) -> bool:
        return any(layer.window_tokens is not None for layer in self.shape.positions)

    @property
    def depends_on_length(self) -> bool:
        """Whether the length of a prompt decides its frequencies."""
        return any(layer.rope.depends_on_length for layer in self.shape.positions)

    @property
    def sharpening(self) -> float:
        """YaRN's attention factor divided by the formula's value for the same factor; 1 where both are equal."""
        for layer in self.shape.positions:
            if isinstance(layer.rope, Ramp):
                ratio = layer.attention_factor / Yarn(factor=layer.rope.factor).attention_factor
                if not math.isclose(ratio, 1, rel_tol=1e-6):
                    return ratio
        return 1.0

    @property
    def odd_longrope(self) -> bool:
        """Whether a LongRoPE has another attention factor than the formula gives for both contexts."""
        found = {layer.rope for layer in self.shape.positions if isinstance(layer.rope, LongRope)}
        tokens = self.shape.context_tokens
        return any(
            not math.isclose(rope.attention_factor, longrope_attention(tokens / original, original), rel_tol=1e-6)
            for rope in found
            for original in [rope.original_tokens or tokens]
        )

    @property
    def odd_windows(self) -> bool:
        """Whether windowed layers use anything but plain RoPE with the theta of the other layers."""
        theta = self.shape.stretched.rope.final_theta(self.shape.theta)
        return any(
            layer.rope.to_hf(layer.theta) != {"rope_type": "default", "rope_theta": theta}
            for layer in self.shape.positions
            if layer.window_tokens is not None
        )

    def has_windows_but_every(self, step: int) -> bool:
        """Whether all layers but every ``step``-th have a window."""
        windows = [layer.window_tokens is not None for layer in self.shape.positions]
        return windows == [(layer + 1) % step != 0 for layer in range(len(windows))]


def is_native(folder: Path) -> bool:
    """Whether a class of transformers runs the folder as it is; if not, only our loader does."""
    return bool(read_config(folder)["architectures"][0] != OWN_ARCHITECTURE)


def find_commands(folder: Path) -> tuple[Serving, ...]:
    """One result for each engine, from the folder's config.json alone."""
    config = read_config(folder)
    text = read_text_config(config, str(folder / "config.json"))
    facts = _Facts(folder, text["architectures"][0], read_shape(folder), find_wrapper(config))
    return tuple(ask(facts) for ask in _ENGINES)


def describe_commands(folder: Path) -> str:
    """The result of ``find_commands`` as text for users."""
    lines = []
    for serving in find_commands(folder):
        lines += [f"{serving.engine:<10} {serving.command or 'not this folder'}"]
        lines += [f"{'':<10} {serving.note}"] if serving.note else []
    return "\n".join(lines)


def _ask_vllm(facts: _Facts) -> Serving:
    if facts.architecture == OWN_ARCHITECTURE:
        return _refuse("vLLM", facts)
    if "dynamic" in facts.kinds:
        return Serving("vLLM", "", "it computes one theta for all prompts, whatever their length (its issue 41236)")
    command = f"vllm serve {facts.quoted} --max-model-len {facts.shape.context_tokens}"
    if facts.depends_on_length:
        why = "" if facts.odd_longrope else "it takes the long factors for short prompts too"
        return Serving("vLLM", command if why else "", why or "its LongRoPE computes the attention factor itself")
    missing = _find_missing_in_vllm(facts)
    if missing and (facts.shape.recurrent is not None or facts.shape.unequal is not None):
        return Serving("vLLM", "", f"{missing}, and the class of transformers was not tried in it with such layers")
    return Serving("vLLM", f"{command} --model-impl transformers" if missing else command, missing)


def _find_missing_in_vllm(facts: _Facts) -> str:
    if facts.architecture in ("SmolLM3ForCausalLM", "MinistralForCausalLM"):
        return "it has no own class for this model and runs the class of transformers"
    if facts.windows and facts.architecture.startswith("Qwen"):
        return "its own Qwen class may apply full attention in every layer (its issue 39514)"
    if facts.odd_windows and facts.architecture == "Olmo3ForCausalLM":
        return _ODD_WINDOWS
    if facts.sharpening != 1:
        return "its own YaRN does not read attention_factor (its pull request 48351)"
    if facts.kinds & {"proportional", "longrope"}:
        return f"its own RoPE does not read every key of {', '.join(sorted(facts.kinds - {'default'}))}"
    return ""


def _ask_sglang(facts: _Facts) -> Serving:
    if facts.architecture == OWN_ARCHITECTURE:
        return _refuse("SGLang", facts)
    note = ""
    if facts.shape.recurrent is not None or facts.shape.unequal is not None:
        note = f"it was not tried with {facts.architecture}"
    elif facts.depends_on_length:
        note = "it computes one set of frequencies for all prompts of a batch or of the server"
    elif facts.sharpening != 1:
        note = "its YaRN does not read attention_factor"
    elif facts.kinds & {"proportional", "longrope"}:
        note = f"its RoPE does not read every key of {', '.join(sorted(facts.kinds - {'default'}))}"
    elif facts.windows and facts.architecture not in ("Olmo3ForCausalLM", "Gemma3ForCausalLM"):
        note = "it applies full attention in every layer of this architecture (its issue 22528)"
    elif facts.odd_windows and facts.architecture == "Olmo3ForCausalLM":
        note = _ODD_WINDOWS
    if note:
        return Serving("SGLang", "", note)
    backend = " --model-impl transformers" if facts.architecture == "SmolLM3ForCausalLM" else ""
    length = f"--context-length {facts.shape.context_tokens}"
    return Serving("SGLang", f"python -m sglang.launch_server --model-path {facts.quoted} {length}{backend}")


def _ask_llama_cpp(facts: _Facts) -> Serving:
    if facts.architecture == OWN_ARCHITECTURE:
        return _refuse("llama.cpp", facts)
    if missing := _find_missing_in_llama_cpp(facts):
        return Serving("llama.cpp", "", missing)
    gguf, name = shlex.quote(f"{facts.folder}.gguf"), _GGUF_NAMES[facts.architecture]
    convert = f"python convert_hf_to_gguf.py {facts.quoted} --outfile {gguf} --outtype {_GGUF_TYPES[facts.shape.dtype]}"
    serve = f"llama-server -m {gguf} -c {facts.shape.context_tokens}"
    if facts.sharpening != 1:
        serve += f" --override-kv {name}.rope.scaling.attn_factor=float:{facts.sharpening:.9g}"
    note = "its converter refuses a tokenizer that it does not know"
    if facts.wrapper is not None:
        note = f"this is the text part; its converter writes the other parts with --mmproj. {note.capitalize()}"
    return Serving("llama.cpp", f"{convert} && {serve}", note)


def _find_missing_in_llama_cpp(facts: _Facts) -> str:
    if facts.architecture not in _GGUF_NAMES:
        did = "refuses" if facts.architecture in _REFUSED_BY_LLAMA_CPP else "was not tried with"
        return f"its converter {did} {facts.architecture}"
    if facts.wrapper is not None and WRAPPERS[facts.wrapper].axes:
        return f"its class for {facts.wrapper} was not tried with stretched positions"
    if facts.shape.tied and facts.architecture.startswith("Olmo"):
        return "it refuses an OLMo whose head is its embedding"
    unknown = facts.kinds - {"default", "linear", "yarn", "llama3"}
    if "llama3" in facts.kinds and _GGUF_NAMES[facts.architecture] != "llama":
        unknown.add("llama3")
    if unknown:
        return f"it would silently run plain RoPE: it does not know {', '.join(sorted(unknown))} here"
    if any(rope.get("truncate") is False for rope in facts.ropes):
        return "its YaRN always rounds the ends of the ramp, and this one does not"
    if facts.architecture == "Gemma3ForCausalLM":
        plain = facts.sharpening == 1 and all(
            layer.window_tokens is None or layer.rope.to_hf(layer.theta)["rope_type"] == "default"
            for layer in facts.shape.positions
        )
        return "" if plain and facts.has_windows_but_every(6) else "its Gemma has plain windows in five layers of six"
    if facts.architecture == "Olmo3ForCausalLM":
        return _ODD_WINDOWS if facts.odd_windows else ""
    if facts.windows:
        return "it would apply full attention in every layer: its converter does not write these windows"
    turns = [not isinstance(layer.rope, Nope) for layer in facts.shape.positions if layer.mixer is None]
    if facts.architecture == "SmolLM3ForCausalLM" and turns != [(layer + 1) % 4 != 0 for layer in range(len(turns))]:
        return "it applies RoPE in three of four layers and ignores the config"
    return ""


def _refuse(engine: str, facts: _Facts) -> Serving:
    return Serving(engine, "", f"no class of transformers has these positions; load it with {LOADER.replace(':', '.')}")


_ENGINES: tuple[Callable[[_Facts], Serving], ...] = (_ask_vllm, _ask_sglang, _ask_llama_cpp)
