"""Ranks find torch, transformers and this project's code imported; importing them asks CUDA nothing."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
from ropewalk.commands.on_ranks import on_ranks
assert "torch" not in sys.modules, "a verb that starts no ranks imports no torch"
import torch, torch.cuda
asked = []
def watch(module, name):
    plain = getattr(module, name)
    def ask(*args, **settings):
        asked.append(name)
        return plain(*args, **settings)
    setattr(module, name, ask)
for name in ("is_available", "device_count", "current_device", "get_device_capability", "get_device_properties", "init"):
    watch(torch.cuda, name)
watch(torch.accelerator, "device_count")
watch(torch.accelerator, "is_available")
def work():
    before = set(sys.modules)
    import ropewalk.evaluate.stage_gate, ropewalk.model.export, ropewalk.model.extend, ropewalk.train.stage
    return sorted(set(sys.modules) - before)
print(json.dumps({"imported": on_ranks(work, 1), "asked": asked}))
"""


def test_the_first_fork_imports_for_all_and_asks_cuda_nothing() -> None:
    """A parent that has asked CUDA how many devices there are can fork no rank that uses a GPU."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["imported"] in ([], ["ropewalk.evaluate.stage_gate"]), "each rank of each part imports these again"
    assert told["asked"] == [], "this is asked by a rank, in its own process"
