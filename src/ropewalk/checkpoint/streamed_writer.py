"""torch's writer of sharded safetensors, but each tensor goes from where it lies straight into the file.

torch's own makes all bytes of a rank's file in memory first, and the bytes of each tensor before that: two more copies
of the state beside the snapshot. The file has the same
header and the same bytes of tensors.
"""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint._hf_utils import (
    CUSTOM_METADATA_KEY,
    DCP_VERSION_KEY,
    FORMAT_KEY,
    FORMAT_VALUE,
    HF_DCP_VERSION,
    SAVED_OFFSETS_KEY,
)
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future


class StreamedWriter(HuggingFaceStorageWriter):
    """Writes one file of each rank into ``folder``; its tensors must lie in host memory."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), save_distributed=True)
        self._folder = folder

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the tensors of ``plan``; raises OSError or SafetensorError, which torch tells to all ranks."""
        done: Future[list[WriteResult]] = Future()
        tensors: dict[str, Tensor] = {}
        places: dict[str, dict[str, object]] = {}
        for item in plan.items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor) and tensor.is_cpu and item.tensor_data is not None, item.index
            assert item.index.fqn not in tensors, "a rank has one part of each tensor"
            tensors[item.index.fqn] = tensor.detach().contiguous()
            places[item.index.fqn] = {SAVED_OFFSETS_KEY: item.tensor_data.chunk.offsets}
        if tensors:
            facts = {
                CUSTOM_METADATA_KEY: json.dumps(places),
                DCP_VERSION_KEY: str(HF_DCP_VERSION),
                FORMAT_KEY: FORMAT_VALUE,
            }
            name = f"shard-{plan.storage_data['shard_index']:05}-model-00001-of-00001.safetensors"
            save_file(tensors, self._folder / name, metadata=facts)
            (self._folder / name).chmod(0o644)  # the library lets only the owner read
        done.set_result([WriteResult(item.index, tensors[item.index.fqn].nbytes, None) for item in plan.items])
        return done
