"""Published throughputs of long-context training, each with the settings that its source states.

A row's software class is set here from those settings, before anything is fitted. ``fused`` means that the source
names a compiler or fused kernels for elementwise work; ``host`` that the optimizer runs on the host's CPUs.
"""

from dataclasses import dataclass, replace

from ropewalk.plan.devices import find_device
from ropewalk.plan.hardware import Machine, make_machine
from ropewalk.plan.savings import Savings
from ropewalk.plan.traffic import Exchange
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape

K = 1024


def _shape(*sizes: int, tied: bool = False) -> ModelShape:
    width, heads, kv_heads, head_dim, mlp, vocabulary, layers = sizes
    positions = plain_layers(layers, 1e6)
    return ModelShape("LlamaForCausalLM", width, heads, kv_heads, head_dim, mlp, vocabulary, tied, 1 << 20, positions)


LLAMA3_8B = _shape(4096, 32, 8, 128, 14_336, 128_256, 32)
LLAMA3_70B = _shape(8192, 64, 8, 128, 28_672, 128_256, 80)
LLAMA2_7B = _shape(4096, 32, 32, 128, 11_008, 32_000, 32)
LLAMA2_70B = _shape(8192, 64, 8, 128, 28_672, 32_000, 80)
LLAMA_34B = _shape(8192, 64, 8, 128, 22_016, 32_000, 48)
YI_34B = _shape(7168, 56, 8, 128, 20_480, 64_000, 60)
QWEN3_4B = replace(_shape(2560, 32, 8, 128, 9728, 151_936, 36, tied=True), qk_norm="head")
MPT_7B = _shape(4096, 32, 32, 128, 10_923, 50_368, 32)  # its MLP of two matrices, as three of the same size
MPT_13B = _shape(5120, 40, 40, 128, 13_653, 50_368, 40)
A100, H100 = make_machine(find_device("a100"), "flash2"), make_machine(find_device("h100"), "flash2")
SLOW_H100 = replace(H100, memory_bytes_per_second=0.9 * 2.4e12)  # torchtitan: 96 GB of HBM2e with 2.4 TB/s, 500 W
NONE, FULL = Savings(), Savings("full")


@dataclass(frozen=True)
class Row:
    """A published run; ``speed`` is in tokens a second of one GPU."""

    source: str
    run: str
    shape: ModelShape
    machine: Machine
    ranks: int
    context_ranks: int
    tokens: int
    rows: int
    savings: Savings
    speed: float
    fused: bool = False
    selective: bool = False
    """Every second product runs again (torchtitan's selective checkpointing by operator)."""
    exchange: Exchange = "heads"

    @property
    def reason(self) -> str:
        """Why the forecast is more than 20 % off; empty where it is not."""
        return REASONS.get((self.source, self.run), "")


def _on_host(savings: Savings, *, tiles: int | None = None, inputs: bool = False) -> Savings:
    return replace(savings, states_on_host=True, mlp_tile_tokens=tiles, offload=inputs)


HOST = _on_host(FULL)
ALL = _on_host(FULL, tiles=4096, inputs=True)
TITAN, PERF, IBM, MPT = "torchtitan 2024-12", "torchtitan performance.md", "IBM fms-fsdp", "llm-foundry"
ROWS = [
    Row(TITAN, "Llama-3.1-8B, 8 H100, compiled", LLAMA3_8B, SLOW_H100, 8, 1, 8192, 2, NONE, 6667, True, True),
    Row(TITAN, "the same, eager", LLAMA3_8B, SLOW_H100, 8, 1, 8192, 2, NONE, 5762, False, True),
    Row(TITAN, "128 H100, compiled", LLAMA3_8B, SLOW_H100, 128, 1, 8192, 2, NONE, 6514, True, True),
    Row(PERF, "Llama-3-8B, 64 A100", LLAMA3_8B, A100, 64, 1, 8192, 1, NONE, 2973, False, True),
    Row(PERF, "Llama-3-70B, 64 A100, full", LLAMA3_70B, A100, 64, 1, 8192, 1, FULL, 331),
    Row(IBM, "Llama-2-7B, 96 H100, 4K", LLAMA2_7B, H100, 96, 1, 4096, 2, NONE, 7500, True),
    Row(IBM, "Llama-2-7B, 128 A100, 4K", LLAMA2_7B, A100, 128, 1, 4096, 2, NONE, 3700, True),
    Row(IBM, "34B, 96 H100, 4K, full", LLAMA_34B, H100, 96, 1, 4096, 2, FULL, 1550, True),
    Row(IBM, "34B, 128 A100, 4K, full", LLAMA_34B, A100, 128, 1, 4096, 2, FULL, 700, True),
    Row(MPT, "MPT-7B, 8 H100, 32K, full", MPT_7B, H100, 8, 1, 32_768, 2, FULL, 3318),
    Row(MPT, "MPT-7B, 8 H100, 64K, full", MPT_7B, H100, 8, 1, 65_536, 1, FULL, 1956),
    Row(MPT, "MPT-13B, 8 H100, 32K, full", MPT_13B, H100, 8, 1, 32_768, 1, FULL, 1976),
    Row(MPT, "MPT-7B, 8 A100, 32K, full", MPT_7B, A100, 8, 1, 32_768, 2, FULL, 1672),
    Row(MPT, "MPT-7B, 8 A100, 64K, full", MPT_7B, A100, 8, 1, 65_536, 1, FULL, 1013),
    *(
        Row(
            "xtuner",
            f"{name}, {ranks} A100, {tokens // K}K, sp{degree}",
            shape,
            A100,
            ranks,
            degree,
            tokens,
            1,
            FULL,
            speed,
        )
        for name, shape, ranks, degree, tokens, speed in (
            ("Llama-2-7B", LLAMA2_7B, 8, 1, 8 * K, 3028.3),
            ("Llama-2-7B", LLAMA2_7B, 8, 1, 32 * K, 2234.2),
            ("Llama-2-7B", LLAMA2_7B, 8, 8, 128 * K, 948.6),
            ("Llama-2-7B", LLAMA2_7B, 8, 8, 256 * K, 540.1),
            ("Llama-2-7B", LLAMA2_7B, 32, 16, 1024 * K, 133.6),
            ("Yi-34B", YI_34B, 32, 8, 128 * K, 251.1),
            ("Yi-34B", YI_34B, 32, 8, 256 * K, 119.7),
            ("Llama-2-70B", LLAMA2_70B, 32, 4, 32 * K, 300.9),
            ("Llama-2-70B", LLAMA2_70B, 32, 8, 128 * K, 144.7),
            ("Llama-2-70B", LLAMA2_70B, 32, 16, 256 * K, 63.8),
            ("Llama-2-70B", LLAMA2_70B, 64, 64, 1024 * K, 21.8),
        )
    ),
    Row("EasyContext", "Llama-2-7B, 8 A100, 64K, data", LLAMA2_7B, A100, 8, 1, 64 * K, 1, HOST, 1280),
    *(
        Row(
            "EasyContext",
            f"Llama-2-7B, 8 A100, {tokens // K}K, ring",
            LLAMA2_7B,
            A100,
            8,
            8,
            tokens,
            1,
            HOST,
            speed / 8,
            exchange="ring",
        )
        for tokens, speed in ((64 * K, 7816), (128 * K, 4266), (512 * K, 2133), (700_000, 1603))
    ),
    Row("ALST", "Llama-3.1-8B, 1 H100, 500K", LLAMA3_8B, H100, 1, 1, 500_000, 1, ALL, 500_000 / 1010, True),
    Row("ALST", "8 H100, 32K each", LLAMA3_8B, H100, 8, 1, 32_000, 1, HOST, 32_000 / 17),
    Row("ALST", "8 H100, 160K each, Liger", LLAMA3_8B, H100, 8, 1, 160_000, 1, HOST, 160_000 / 123, True),
    Row("ALST", "8 H100, 1.1M, sp8", LLAMA3_8B, H100, 8, 8, 1_100_000, 1, HOST, 1_100_000 / 564 / 8, True),
    Row("ALST", "8 H100, 3.8M, sp8", LLAMA3_8B, H100, 8, 8, 3_800_000, 1, ALL, 3_800_000 / 6455 / 8, True),
    Row("ALST", "32 H100, 15.5M, sp32", LLAMA3_8B, H100, 32, 32, 15_500_000, 1, ALL, 15_500_000 / 26_709 / 32, True),
    Row("Hugging Face, Ulysses", "Qwen3-4B, 1 H100, 8K", QWEN3_4B, H100, 1, 1, 8192, 1, HOST, 2436),
    Row("Hugging Face, Ulysses", "Qwen3-4B, 4 H100, 32K, sp4", QWEN3_4B, H100, 4, 4, 32_768, 1, HOST, 7872 / 4),
    Row("Hugging Face, Ulysses", "Qwen3-4B, 4 H100, 64K, sp4", QWEN3_4B, H100, 4, 4, 65_536, 1, HOST, 13_396 / 4),
]
ALST_NODES = [
    next(row for row in ROWS if row.run == "8 H100, 32K each"),
    Row("ALST", "32 H100, 32K each", LLAMA3_8B, H100, 32, 1, 32_000, 1, HOST, 32_000 / 12),
]
"""ALST's baseline on one node and on four, with the same tokens on each device, in seconds rounded to 1. The second is
in no fit."""
ROUNDED_SECONDS = 0.5

QWEN3_32B = replace(_shape(5120, 64, 8, 128, 25_600, 151_936, 64), qk_norm="head")
LONGEST: list[tuple[str, ModelShape, int, int]] = [
    ("Llama-3.1-70B", LLAMA3_70B, 8, 200_000),
    ("Llama-3.1-70B", LLAMA3_70B, 16, 1_200_000),
    ("Llama-3.1-70B", LLAMA3_70B, 32, 4_000_000),
    ("Llama-3.1-70B", LLAMA3_70B, 64, 10_000_000),
    ("Qwen3-32B", QWEN3_32B, 8, 1_550_000),
    ("Qwen3-32B", QWEN3_32B, 16, 4_000_000),
    ("Qwen3-32B", QWEN3_32B, 32, 7_000_000),
    ("Llama-3.1-8B", LLAMA3_8B, 8, 3_800_000),
    ("Llama-3.1-8B", LLAMA3_8B, 16, 8_000_000),
]
"""ALST's longest sequences: model, H100 of 80 GB in nodes of eight with 1.9 TB of host memory, tokens."""
ALST_NODE_BYTES = 1.9e12

_KERNEL = "from 32K to 64K its time grows as with attention at FlashAttention 1's rate"
_HEADS = "{} ranks on {} nodes share 8 key heads"
REASONS = {
    (IBM, "Llama-2-7B, 128 A100, 4K"): "without its source no compiled row on A100 is in the fit",
    (
        IBM,
        "Llama-2-7B, 96 H100, 4K",
    ): "0.2 s of a step of 1.1 s are missing; a step of the same source's 34B (5.3 s) is "
    "met to 6 %, so they do not grow with the model. The source does not say what they are",
    (MPT, "MPT-7B, 8 H100, 64K, full"): _KERNEL,
    (MPT, "MPT-7B, 8 A100, 32K, full"): _KERNEL,
    (MPT, "MPT-7B, 8 A100, 64K, full"): _KERNEL,
    ("xtuner", "Llama-2-70B, 32 A100, 256K, sp16"): "its time is 2.3 times that of 128K, its work 1.5 times: "
    + _HEADS.format(16, 2),
    ("xtuner", "Llama-2-70B, 64 A100, 1024K, sp64"): _HEADS.format(64, 8) + ", as in the row before",
    ("EasyContext", "Llama-2-7B, 8 A100, 128K, ring"): "its time is 3.7 times that of 64K, its work 2.9 times; the "
    "source timed the first five steps and says that they vary",
    (
        "ALST",
        "8 H100, 32K each",
    ): "its hosts were left out too: the others' update 3.7B parameters a second, its own 1.0B",
    ("Hugging Face, Ulysses", "Qwen3-4B, 4 H100, 64K, sp4"): "from 32K to 64K its time grows by 0.7 s, one "
    "document's attention by 3.4 s: its sequences hold shorter documents",
}
"""Why the forecast of a row, made without its source, is more than 20 % off."""
