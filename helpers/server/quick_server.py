"""vLLM's API server with its engine process forked instead of started anew: half the start.

    python -P -m helpers.server.quick_server --model MODEL ...

Takes the options of vllm.entrypoints.openai.api_server. On a CPU vLLM 0.32 starts the engine's
process (and a worker's below it) with "spawn": each imports PyTorch and vLLM again, 5 s of work on
one core. Here the engine is forked from the API server, which has imported everything already, and
does the worker's job itself; so is the coordinator of data parallelism. What is served, and over
what, is vLLM's own and unchanged. Two things make it safe: the fork comes before the API server has
used a thread of PyTorch's pool, and the pool has one thread per free core (OMP_NUM_THREADS, set by
helpers/server/start.py), because forked engines are not bound to cores as vLLM's workers are.
Not for a GPU: a process that has touched CUDA cannot be forked.
"""

import gc
import multiprocessing

from helpers.engine.start import imports_without_gc


def main() -> None:
    """Serve with the options of the command line; only vLLM for a CPU can."""
    with imports_without_gc():
        import vllm.v1.engine.coordinator as coordinator
        import vllm.v1.engine.utils as engines
        from vllm.entrypoints.launchers.api_server.entry import main as serve
        from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        raise SystemExit("quick_server: error: only for vLLM on a CPU; use `vllm serve` on a GPU")
    for module in (engines, coordinator):
        module.get_mp_context = lambda: multiprocessing.get_context("fork")
    gc.freeze()  # what is imported stays, in the engine's process too
    serve()


if __name__ == "__main__":
    main()
