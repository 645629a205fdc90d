"""Do other readers run the model that was exported? Every method on every architecture, reader by reader.

    python benchmarks/readers.py SCRATCH [--quick]

Extends and exports a tiny model of each architecture, 512 -> 2048 tokens, and compares logits of two random texts, of
512 and 2048 tokens, at positions 0, 511, 512 and 2047 with this code's: in transformers of this environment, by our
loader in a fresh process, in transformers 4.57, and in llama.cpp (built from the sdist of llama-cpp-python, which
carries the converter). SCRATCH keeps the environments, so a second run starts at once; --quick takes one architecture
and only readers that are there. Prints JSON lines: the largest norm-relative difference, and beside it what it would be
if a reader ignored the method.

llama.cpp knows tokenizers by a hash of what they do and so not ours. Its copy in SCRATCH is told to call any other one
gpt-2: tokens are given here, text is not.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from ropewalk.commands.extend import extend_on_rank
from ropewalk.core.error import UserError
from ropewalk.core.seed import stream
from ropewalk.model.architectures import class_of
from ropewalk.model.engines import Serving, find_commands
from ropewalk.model.export import export
from ropewalk.model.export_parity import compute_logits
from ropewalk.parallel.launch import run_ranks
from ropewalk.recipe.load import parse_stage
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.find import find_model

SAME = 1e-5
SAME_BY_ANOTHER_KERNEL = 1e-3  # llama.cpp multiplies in its own order, and its GELU is a table of 16 bits
OLD_TOKENS, NEW_TOKENS = 512, 2048
PLACES = {OLD_TOKENS: [0, OLD_TOKENS - 1], NEW_TOKENS: [0, OLD_TOKENS - 1, OLD_TOKENS, NEW_TOKENS - 1]}
_LONG = [round(1 + 3 * pair / 15, 4) for pair in range(16)]
_WINDOW, _STAYS, _NOPE = "{window: 256}", "{window: 256, rope: unchanged}", "{rope: nope}"
METHODS: Mapping[str, tuple[str, ...]] = {
    "unchanged": ("rope.kind=unchanged",),
    "theta": ("rope.kind=theta", "rope.theta=1e6"),
    "linear": ("rope.kind=linear",),
    "ntk": ("rope.kind=ntk",),
    "ntk_by_parts": ("rope.kind=ntk_by_parts",),
    "yarn": ("rope.kind=yarn",),
    "yarn, not truncated": ("rope.kind=yarn", "rope.truncate=false"),
    "llama3": ("rope.kind=llama3",),
    "proportional": ("rope.kind=proportional", "rope.share=0.75"),
    "dynamic": ("rope.kind=dynamic",),
    "longrope": ("rope.kind=longrope", f"rope.short_factor={[1.0] * 16}", f"rope.long_factor={_LONG}"),
    "resonance": ("rope.kind=resonance",),
    "nope": ("rope.kind=nope",),
    "yarn, windows in 3 of 4 layers": ("rope.kind=yarn", f"layers=[{_WINDOW}, {_WINDOW}, {_WINDOW}, {{}}]"),
    "yarn beside windows that stay": ("rope.kind=yarn", f"layers=[{_STAYS}, {_STAYS}, {_STAYS}, {{}}]"),
    "theta, nope in every 4th layer": ("rope.kind=theta", "rope.theta=1e6", f"layers=[{{}}, {{}}, {{}}, {_NOPE}]"),
    "windows, nope in every 4th layer": ("rope.kind=unchanged", f"layers=[{_WINDOW}, {_WINDOW}, {_WINDOW}, {_NOPE}]"),
    "theta, log n": ("rope.kind=theta", "rope.theta=1e6", "layers=[{temperature: log_n}]"),
}
_KINDS = ["sliding_attention"] * 3 + ["full_attention"]
_WINDOWED = {"layer_types": _KINDS, "sliding_window": 256}
_GEMMA = {"num_hidden_layers": 12, "layer_types": [_KINDS[-1 if (layer + 1) % 6 == 0 else 0] for layer in range(12)]}
_BY_TYPE = {"rope_parameters": {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in _KINDS[2:]}}
_EXTRA: Mapping[str, dict[str, Any]] = {
    "MistralForCausalLM": {"sliding_window": None},
    "MinistralForCausalLM": _WINDOWED,
    "SmolLM3ForCausalLM": {"no_rope_layers": [1, 1, 1, 0]},
    "Olmo2ForCausalLM": {"tie_word_embeddings": False},  # llama.cpp refuses a tied one
    "Olmo3ForCausalLM": {"tie_word_embeddings": False, **_WINDOWED, **_BY_TYPE},
    "Gemma3ForCausalLM": {**_WINDOWED, **_GEMMA, **_BY_TYPE, "query_pre_attn_scalar": 32},
}
ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", *_EXTRA)
"""Those that engines know best; tests/conformance runs all others."""
_PROGRAM = Path(__file__).with_name("read_logits.py")
_LLAMA_BUILD = "-DGGML_OPENMP=OFF -DLLAMA_CURL=OFF -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DLLAMA_BUILD_TESTS=OFF"


class Reader(NamedTuple):
    """How a reader is started, and from where its modules come."""

    name: str
    kind: str
    python: str
    path: str
    same: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--quick", action="store_true", help="Llama alone, and only readers whose environments stand")
    asked = parser.parse_args()
    readers = list(find_readers(asked.scratch.resolve(), build=not asked.quick))
    tokens = stream("readers").integers(4096, size=NEW_TOKENS)
    for architecture in ["LlamaForCausalLM"] if asked.quick else ARCHITECTURES:
        work = asked.scratch.resolve() / "folders" / architecture
        shutil.rmtree(work, ignore_errors=True)
        base = write_base(architecture, work / "base")
        folders = {}
        for method, overrides in METHODS.items():
            try:
                folders[method] = export_method(base, work / method.replace(", ", "-").replace(" ", "-"), overrides)
            except UserError as error:
                tell(architecture, method, "ropewalk", {"verdict": "not offered", "why": error.why})
        compare(architecture, folders, tokens, readers)


def find_readers(scratch: Path, *, build: bool) -> Iterator[Reader]:
    """Every reader whose environment stands, after building what is missing."""
    yield Reader(f"transformers {version('transformers')}", "transformers", sys.executable, "", SAME)
    yield Reader("ropewalk.model.load.load_model", "ropewalk", sys.executable, "", SAME)
    old, cpp = scratch / "tf4" / "bin" / "python", scratch / "llama" / "bin" / "python"
    if build and not old.exists():
        make_environment(scratch / "tf4", "torch==2.13.0", "transformers==4.57.*", "sentencepiece", "protobuf")
    if build and not (scratch / "sdist").exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps"]
        subprocess.run([*pip, "llama-cpp-python", "-d", str(scratch / "sdist")], check=True)
        for archive in (scratch / "sdist").glob("*.tar.gz"):
            shutil.unpack_archive(archive, scratch / "sdist", filter="data")
    if build and not cpp.exists():
        make_environment(scratch / "llama", *map(str, (scratch / "sdist").glob("*.tar.gz")))
    if old.exists():
        yield Reader(f"transformers {ask_version(old, 'transformers')}", "transformers", str(old), "", SAME)
    if old.exists() and cpp.exists():
        source = next((scratch / "sdist").glob("*/vendor/llama.cpp"))
        name_tokenizer(source / "conversion" / "base.py")
        name = f"llama.cpp (llama-cpp-python {ask_version(cpp, 'llama_cpp_python')})"
        yield Reader(name, "llama.cpp", str(cpp), str(source), SAME_BY_ANOTHER_KERNEL)


def make_environment(folder: Path, *packages: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages]
    subprocess.run(install, check=True, env=os.environ | {"CMAKE_ARGS": _LLAMA_BUILD})


def ask_version(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def name_tokenizer(source: Path) -> None:
    """Let the converter's copy call a tokenizer that it does not know gpt-2, instead of refusing the model."""
    text = source.read_text()
    source.write_text(text.replace("        res = None\n", '        res = "gpt-2"\n', 1))


def write_base(architecture: str, folder: Path) -> Path:
    """The tiny base in ``architecture``, its layers repeated to four or more; what is missing is random or one."""
    tiny = find_model("tiny-base")
    config = (
        json.loads((tiny / "config.json").read_text())
        | {"num_hidden_layers": 4, "pad_token_id": None}
        | _EXTRA.get(architecture, {})
    )
    for key in ("architectures", "model_type", "rope_theta", "torch_dtype"):
        config.pop(key)
    torch.manual_seed(0)
    model = class_of(architecture)(AutoConfig.for_model(SUPPORTED[architecture].model_type, **config))
    weights = load_file(tiny / "model.safetensors")
    for layer in range(3, config["num_hidden_layers"]):
        old = f".layers.{layer % 3}."
        weights |= {name.replace(old, f".layers.{layer}."): weights[name] for name in weights if old in name}
    model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}, strict=False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny / name, folder / name)
    return folder


def export_method(base: Path, out: Path, overrides: tuple[str, ...]) -> Path:
    """The folder that a user would get."""
    extended = out.with_name(f"{out.name}-extended")
    stage = parse_stage([f"context_length={NEW_TOKENS}", *overrides])
    run_ranks(extend_on_rank, 1, base, extended, stage)
    export(extended, extended, out, dtype="float32")
    return out


def compare(architecture: str, folders: Mapping[str, Path], tokens: np.ndarray, readers: list[Reader]) -> None:
    """One line for each method and reader."""
    ours = {method: run_ranks(compute_all, 1, folder, tokens)[0] for method, folder in folders.items()}
    for reader in readers:
        for method, refusal in ask(reader, folders, tokens):
            if refusal:
                facts = {"verdict": "refuses loudly", "why": refusal}
            else:
                theirs = np.load(answer_of(folders[method]))
                difference = measure(ours[method], theirs)
                same = np.array_equal(ours[method].argmax(1), theirs.argmax(1))
                verdict = "same" if difference <= reader.same else "other logits"
                ignored = measure(ours[method], ours["unchanged"])
                facts = {"verdict": verdict, "difference": float(f"{difference:.2e}"), "same_next_tokens": bool(same)}
                facts |= {"difference_if_ignored": float(f"{ignored:.2e}")}
            if reader.kind == "llama.cpp":
                facts["command_printed"] = bool(find_llama_cpp(folders[method]).command)
            tell(architecture, method, reader.name, facts)


def compute_all(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """Our logits of both texts."""
    texts = [
        {"tokens": torch.from_numpy(tokens[:length]), "places": torch.tensor(places)}
        for length, places in PLACES.items()
    ]
    return np.concatenate([compute_logits(folder, text).numpy() for text in texts])


def ask(reader: Reader, folders: Mapping[str, Path], tokens: np.ndarray) -> Iterator[tuple[str, str]]:
    """Each method with the reader's refusal, empty where it answered."""
    methods = {str(folder): method for method, folder in folders.items()}
    jobs = [
        {
            "folder": str(folder),
            "gguf": f"{folder}.gguf",
            "answer": str(answer_of(folder)),
            "overrides": read_overrides(folder),
        }
        for folder in folders.values()
    ]
    if reader.kind == "llama.cpp":
        old = str(Path(reader.python).parents[2] / "tf4" / "bin" / "python")
        refused = dict(start("convert", old, reader.path, jobs, tokens))
        yield from ((methods[folder], f"converter: {refusal}") for folder, refusal in refused.items() if refusal)
        jobs = [job for job in jobs if not refused[job["folder"]]]
    for folder, refusal in start(reader.kind, reader.python, "", jobs, tokens):
        yield methods[folder], refusal


def start(
    kind: str, python: str, path: str, jobs: list[dict[str, Any]], tokens: np.ndarray
) -> Iterator[tuple[str, str]]:
    """Run the program in another environment; a reader that dies has refused all it did not answer."""
    if not jobs:
        return
    asked = Path(jobs[0]["folder"]).with_name("jobs.json")
    texts = [{"tokens": tokens[:length].tolist(), "places": places} for length, places in PLACES.items()]
    asked.write_text(json.dumps({"texts": texts, "jobs": jobs}))
    search = os.environ | {"PYTHONPATH": f"{path}:{path}/gguf-py"} if path else dict(os.environ)
    program = f"import sys, runpy; sys.path.insert(0, {path!r}); sys.argv = sys.argv[1:]; "
    program += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [python, "-c", program, str(_PROGRAM), kind, str(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=search)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    yield from ((answer["folder"], answer["refusal"]) for answer in answers)
    for job in jobs[len(answers) :]:
        yield job["folder"], f"died: {(done.stderr.strip().splitlines() or ['without a word'])[-1]}"


def read_overrides(folder: Path) -> dict[str, float]:
    """What the ready command for llama.cpp overrides in the file; the reader gets it too."""
    found = re.findall(r"--override-kv (\S+)=float:(\S+)", find_llama_cpp(folder).command)
    return {key: float(value) for key, value in found}


def find_llama_cpp(folder: Path) -> Serving:
    return next(serving for serving in find_commands(folder) if serving.engine == "llama.cpp")


def answer_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.npy")


def measure(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of a place's logits, relative to their norm."""
    wide = ours.astype(np.float64), theirs.astype(np.float64)
    return float((np.linalg.norm(wide[0] - wide[1], axis=1) / np.linalg.norm(wide[0], axis=1)).max())


def tell(architecture: str, method: str, reader: str, facts: Mapping[str, Any]) -> None:
    print(json.dumps({"case": f"{architecture}, {method}", "peer": reader, **facts}), flush=True)


if __name__ == "__main__":
    main()
