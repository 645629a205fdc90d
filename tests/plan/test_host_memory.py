"""The memory of the machine, or the least limit of the control groups that this process is in."""

import os
from pathlib import Path

import pytest

from ropewalk.plan.host_memory import count_host_bytes

WHOLE = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
GIB = 1 << 30


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": f"{GIB}\n"}, GIB),  # a container of its own
        ("0::/\n", {"memory.max": "max\n"}, WHOLE),
        (
            "0::/job/step\n",
            {"job/memory.max": f"{GIB}\n", "job/step/memory.max": "max\n"},
            GIB,
        ),  # the job around a step
        ("0::/job/step\n", {"job/memory.max": f"{2 * GIB}", "job/step/memory.max": f"{GIB}"}, GIB),
        ("8:pids:/\n4:cpu,memory:/slurm/job\n", {"memory/slurm/job/memory.limit_in_bytes": f"{GIB}\n"}, GIB),
        ("4:memory:/docker/3f\n", {"memory/memory.limit_in_bytes": f"{GIB}\n"}, GIB),  # mounted as the container's own
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": f"{(1 << 63) - 4096}\n"}, WHOLE),  # how version 1 says none
        ("8:pids:/job\n", {"memory/job/memory.limit_in_bytes": "1\n", "job/memory.max": "1\n"}, WHOLE),
        ("torn\n", {"memory.max": "1\n"}, WHOLE),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, own: str, limits: dict[str, str], expected: float) -> None:
    for name, text in {
        "proc/self/cgroup": own,
        **{f"sys/fs/cgroup/{name}": text for name, text in limits.items()},
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert count_host_bytes(tmp_path) == expected


def test_a_machine_without_control_groups_has_its_memory(tmp_path: Path) -> None:
    assert count_host_bytes(tmp_path / "none") == WHOLE >= count_host_bytes() > 0
