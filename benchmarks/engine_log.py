"""Figures of vLLM's start messages, rounded by vLLM to 0.01 GiB."""

import re

PATTERNS = {
    "weights_gib": r"Model loading took ([\d.]+) GiB memory",
    "kv_available_gib": r"Available KV cache memory: ([\d.]+) GiB",
    "graphs_estimate_gib": r"CUDA graph pool memory: .*?\(actual\), ([\d.]+) GiB \(estimated\)",
    "graphs_gib": r"CUDA graph pool memory: ([\d.]+) GiB \(actual\)",
    "graph_capture_s": r"Graph capturing finished in ([\d.]+) secs",
    "compile_s": r"torch\.compile.*? (?:took|in total:?|takes) ([\d.]+) s",
    "load_s": r"Model loading took [\d.]+ GiB memory and ([\d.]+) seconds",
    "engine_init_s": r"init engine .*? took ([\d.]+) s",
}
MESSAGE = re.compile(
    r"Free memory on device \((?P<device_free_gib>[\d.]+)/(?P<device_total_gib>[\d.]+) GiB\) on "
    r"startup\. Desired GPU memory utilization is \((?P<utilisation>[\d.]+), "
    r"(?P<budget_gib>[\d.]+) GiB\)\. Actual usage is (?P<consumed_gib>[\d.]+) GiB for consumed "
    r"memory.*?, (?P<peak_activation_gib>[\d.]+) GiB for peak activation, and "
    r"(?P<graphs_gib>[\d.]+) GiB for CUDAGraph memory"
)
TOKENS = re.compile(
    r"[A-Z]+ KV cache size: ([\d,]+) tokens, Maximum concurrency for [\d,]+ tokens per request: "
    r"([\d.]+)x"
)


def parse_log(text: str) -> dict[str, float]:
    """GiB and seconds of the first rank that logs them; absent when not logged.

    peak_activation_gib is without the CUDA graph estimate, which vLLM adds to it in its message.
    """
    found: dict[str, float] = {}
    for name, pattern in PATTERNS.items():
        if match := re.search(pattern, text):
            found[name] = float(match.group(1))
    if match := MESSAGE.search(text):
        found |= {name: float(value) for name, value in match.groupdict().items()}
        estimate = found.get("graphs_estimate_gib", 0.0)
        found["peak_activation_gib"] = round(found["peak_activation_gib"] - estimate, 3)
    if match := TOKENS.search(text):
        found["kv_cache_tokens"] = int(match.group(1).replace(",", ""))
        found["max_concurrency"] = float(match.group(2))
    return found
