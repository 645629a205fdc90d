"""Experts in the files and in the class: the same numbers both ways, compared with transformers' own conversion."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor

from forked_verb import run_program
from ropewalk.core.error import UserError
from ropewalk.model.expert_files import find_place, join_experts
from ropewalk.model.lazy_weights import read_weights, split_experts
from ropewalk.model.load_shards import find_stored_buffers, load_shards
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.read_rows import read_rows
from ropewalk.model.weights import SINGLE, check_weights, read_file_headers, read_headers
from ropewalk.model.write_weights import write_weights
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from tiny_experts import MIXTURES, mixture_config, save_mixture

KINDS = sorted(MIXTURES)
CPU = torch.device("cpu")


def build(kind: str, **changes: Any) -> transformers.PreTrainedModel:
    """The class's model without memory; what no file holds is on the CPU."""
    with torch.device("meta"):
        model = getattr(transformers, MIXTURES[kind][0])(mixture_config(kind, **changes))
    for _, module, name in list(find_stored_buffers(model)):
        module.register_buffer(name, torch.empty_like(module.get_buffer(name), device="cpu"))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_files_hold_what_the_class_expects(tmp_path: Path, kind: str) -> None:
    folder, model = save_mixture(tmp_path / kind, kind, shard_bytes=20_000), build(kind)
    check_weights(folder, {name: tuple(each.shape) for name, each in model.state_dict().items()}, tied={})
    load_shards(model, folder, device=CPU)
    theirs = type(model).from_pretrained(folder, dtype=torch.float32).state_dict()
    ours = model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(each, ours[name]) for name, each in theirs.items())
    assert any("experts" in name and each.dim() == 3 for name, each in ours.items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_has_the_bytes_of_the_base(tmp_path: Path, kind: str, dtype: str) -> None:
    folder = save_mixture(tmp_path / kind, kind, dtype=getattr(torch, dtype))
    weights = {name: tensor.float() for name, tensor in read_weights(folder).items()}  # masters, by the class's names
    assert weights.keys() == build(kind).state_dict().keys()
    (tmp_path / "out").mkdir()
    parts = {name: each.shape for name, each in read_headers(folder).items()}
    write_weights(split_experts(weights, parts), tmp_path / "out", dtype=dtype, where=folder)
    before, after = load_file(folder / SINGLE), load_file(tmp_path / "out" / SINGLE)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor.float(), after[name].float()), name
        assert after[name].dtype == (torch.float32 if "correction_bias" in name else tensor.dtype), name


@pytest.mark.parametrize("experts", [4, 3, 1])
def test_each_rank_reads_whole_experts(tmp_path: Path, experts: int) -> None:
    changes = {"num_experts": experts, "num_experts_per_tok": 1}
    folder = save_mixture(tmp_path / "base", "qwen3_moe", **changes)

    def gather() -> dict[str, tuple[torch.Tensor, int]]:
        learner, mesh = ModelWithLoss(build("qwen3_moe", **changes)), make_mesh(2, 1)
        shard_model(learner, mesh, precision="float32", whole_bytes=0)
        load_shards(learner, folder, device=CPU)
        return {
            name.removeprefix("causal."): (each.full_tensor().detach(), len(each.to_local()))
            for name, each in learner.named_parameters()
            if isinstance(each, DTensor)
        }

    whole = read_weights(folder)
    for rank, found in enumerate(run_ranks(gather, 2, threads=1)):
        assert all(torch.equal(each, whole[name]) for name, (each, _) in found.items())
        held = found["model.layers.1.mlp.experts.gate_up_proj"][1]
        assert held == {4: (2, 2), 3: (2, 1), 1: (1, 0)}[experts][rank]


def quantise(folder: Path) -> dict[str, torch.Tensor]:
    """Replace the experts of a gpt-oss folder by random MXFP4 ones; return their numbers, computed here."""
    steps = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    tensors, values = load_file(folder / SINGLE), {}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
        scales = torch.randint(118, 124, (experts, outputs, inputs // 32), dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        numbers = torch.stack([steps[(blocks & 15).long()], steps[(blocks >> 4).long()]], dim=-1).flatten(-2)
        values[name] = (numbers * torch.exp2(scales.float() - 127)[..., None]).flatten(-2).transpose(1, 2)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))
    return values


def test_the_documented_command_dequantises_gpt_oss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 32}
    values = quantise(save_mixture(tmp_path / "gpt-oss-20b", "gpt_oss", dtype=torch.bfloat16, **sizes))
    page = (Path(__file__).parents[2] / "docs" / "experts.md").read_text()
    program = page.partition('python -c "')[2].partition('"')[0]
    monkeypatch.chdir(tmp_path)
    assert run_program(("-c", program), tmp_path / "said", [], 110.0) == 0, (tmp_path / "said").read_text()
    model = build("gpt_oss", **sizes)
    load_shards(model, tmp_path / "gpt-oss-20b-bf16", device=CPU)
    found = model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in values.items()) and len(values) == 4
    assert not json.loads((tmp_path / "gpt-oss-20b-bf16" / "config.json").read_text()).get("quantization_config")


def spoil(folder: Path, name: str, value: torch.Tensor | None) -> None:
    tensors = load_file(folder / SINGLE)
    tensors.pop(name)
    save_file(tensors if value is None else tensors | {name: value}, folder / SINGLE, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("qwen3_moe", "model.layers.1.mlp.experts.2.up_proj.weight"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.1.w3.weight"),
    ],
)
def test_a_missing_or_odd_matrix_is_named(tmp_path: Path, kind: str, name: str) -> None:
    folder = save_mixture(tmp_path / kind, kind)
    odd = load_file(folder / SINGLE)[name][1:].contiguous()
    spoil(folder, name, odd)
    with pytest.raises(UserError, match=r"tensors of a layer are not complete") as caught:
        join_experts(read_headers(folder))
    assert "differ in shape or type" in caught.value.why
    spoil(folder, name, None)
    with pytest.raises(UserError) as caught:
        join_experts(read_headers(folder))
    assert caught.value.why == f"missing tensors: 1 ({name})"


def test_a_folder_with_fewer_experts_than_its_config_says(tmp_path: Path) -> None:
    folder = save_mixture(tmp_path / "base", "qwen3_moe", num_experts=3)
    expected = {name: tuple(each.shape) for name, each in build("qwen3_moe").state_dict().items()}
    with pytest.raises(UserError, match="another shape"):
        check_weights(folder, expected, tied={})


def test_a_value_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.3.down_proj.weight"
    folder = save_mixture(tmp_path / "base", "qwen3_moe")
    spoil(folder, name, torch.full_like(load_file(folder / SINGLE)[name], float("inf")))
    with pytest.raises(UserError, match=r"mlp\.experts\.down_proj is not finite"):
        load_shards(build("qwen3_moe"), folder, device=CPU)


def test_names_of_dense_models_are_their_own() -> None:
    dense = nn.Linear(2, 2).state_dict()
    assert all(find_place(name) is None for name in (*dense, "model.layers.0.mlp.up_proj.weight", "lm_head.weight"))
    shared = "model.layers.3.mlp.shared_experts.up_proj.weight"
    assert find_place(shared) is None and dict(split_experts({shared: torch.ones(1)}, {shared: (1,)}))


def test_the_rows_of_a_convolution_may_lie_in_parts_of_any_size(tmp_path: Path) -> None:
    """OLMo hybrid's publisher has three; transformers saves a third of the rows in each."""
    path, whole = tmp_path / SINGLE, torch.arange(20.0).view(10, 1, 2)
    names = [f"model.layers.0.linear_attn.{each}_conv1d.weight" for each in "qkv"]
    parts = dict(zip(names, whole.split([3, 2, 5]), strict=True))
    save_file({name: part.clone() for name, part in parts.items()}, path)
    stored = read_file_headers(path)
    ((name, joined),) = join_experts(stored).items()
    assert name == "model.layers.0.linear_attn.conv1d.weight" and joined.shape == (10, 1, 2)
    for first in range(10):
        for count in range(11 - first):
            out = torch.full((count, 1, 2), torch.nan)
            assert read_rows(joined, out, first_row=first) == 0 and torch.equal(out, whole[first : first + count])
    again = split_experts({name: whole}, {name: each.shape for name, each in stored.items()})
    assert all(torch.equal(again[name], part) and again.shapes[name] == part.shape for name, part in parts.items())
    del stored[names[1]]
    with pytest.raises(UserError, match=r"lacks 1 part .*k_conv1d"):
        join_experts(stored)
