"""What a job needs, in the terms that all schedulers share, and the command that each of its machines runs."""

from dataclasses import dataclass

STOP_SECONDS = 300
"""Seconds from the scheduler's warning to its kill: one step and one save must fit."""
GRACE_SECONDS = STOP_SECONDS - 30
"""Seconds that torchrun gives its ranks of them; torch's default is 30."""
PORT = 29500


@dataclass(frozen=True, slots=True)
class Target:
    """A recipe on its machines. ``cpus`` and ``memory_gib`` are of one machine."""

    name: str
    nodes: int
    local: int
    """Ranks of a machine."""
    gpus: bool
    """Whether each rank has a GPU."""
    device: str | None
    """The device that the recipe names, such as ``h100-sxm``."""
    cpus: int
    memory_gib: int
    prepare_cpus: int
    """Processors of the machine that prepares the text; ``prepare_gib`` is its memory."""
    prepare_gib: int
    whole_memory: bool
    """Whether the job may take all memory of its machines, for schedulers that can say so."""
    exclusive: bool
    time: str
    prepare_jobs: int
    restarts: int
    image: str
    arguments: str
    """The recipe, its overrides and the options of all verbs, quoted for a shell."""

    def node_command(self, *, address: str, index: str, id: str) -> str:
        """The shell command of one machine. ``address`` is the first machine's, ``index`` this machine's number."""
        first = f"$([ {index} = 0 ] && echo 1 || echo 0)"
        return (
            f"python3 -m ropewalk.parallel.elastic --nnodes={self.nodes} --nproc-per-node={self.local} "
            f"--max-restarts={self.restarts} \\\n"
            f"  --rdzv-backend=c10d --rdzv-endpoint={address}:{PORT} --rdzv-id={id} \\\n"
            f'  --rdzv-conf="is_host={first},join_timeout=3600,read_timeout=600" \\\n'
            f"  --no-python ropewalk run {self.arguments}"
        )
