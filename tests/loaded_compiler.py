"""torch's compiler, loaded in the test's process, so that forked ranks need not load it each."""

import functools


@functools.cache
def load_compiler() -> None:
    """What traces a forward and a backward, and cuts them into two graphs.

    After a forward alone 128 modules are left to load, which takes each rank another second.
    """
    import torch._inductor.compile_fx  # a second, which tests that compile nothing need not wait for

    compiled = torch.compile(torch.sin, backend="aot_eager")
    compiled(torch.ones(1, requires_grad=True)).backward()
