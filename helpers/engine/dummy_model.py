"""A model's real shape with random weights, for load_format="dummy": no download is needed."""

from __future__ import annotations

import json
from pathlib import Path

from helpers import tiny_model
from helpers.engine.cache import cache_dir, write_once
from helpers.engine.failure import ProfileError

CONFIGS = Path(__file__).with_name("model_configs")


def dummy_model_folder(name: str, vocab_size: int | None = None) -> Path:
    """A folder with the real config of model `name` and a tokenizer.

    The tokenizer is the shipped one with a made-up word (" w48213") for every further id of the
    model's vocabulary: random weights choose any of them, and text that cannot be decoded would be
    slow to decode. The folder is made once in the user's cache: vLLM keeps compiled code by model,
    so its path should not change.
    vocab_size: another vocabulary than the config's.
    Raises ProfileError for a name that has no shipped config.
    """
    source = CONFIGS / f"{Path(name).name}.json"
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.json")))
        what = f"There is no shipped config for {name!r}"
        raise ProfileError(f"{what}; choose one of {known}, or give a folder.")
    config = json.loads(source.read_text())
    config["dtype"] = config.pop("torch_dtype", None) or config.get("dtype") or "bfloat16"
    # Without a version, the loader takes so large a vocabulary for Mistral's and warns.
    config["transformers_version"] = "5.0.0"
    folder = cache_dir("models") / f"{source.stem}-dummy"
    if vocab_size:
        config["vocab_size"] = vocab_size
        folder = folder.with_name(f"{folder.name}-{vocab_size}")
    folder.mkdir(exist_ok=True)
    tokenizer = json.loads((tiny_model.TARGET / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    for number in range(len(words), config["vocab_size"]):
        words[f"\u0120w{number}"] = number  # U+0120 is a space here
    write_once(folder / "tokenizer.json", json.dumps(tokenizer).encode())
    for path in (tiny_model.TARGET / "tokenizer_config.json", *tiny_model.TARGET.glob("*.jinja")):
        write_once(folder / path.name, path.read_bytes())
    write_once(folder / "config.json", json.dumps(config, indent=1).encode())
    return folder
