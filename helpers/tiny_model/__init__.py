"""The model that ships with the workbook, and the glossary it was trained on.

TARGET and DRAFT are ordinary local model directories for vLLM (Qwen2 architecture,
bf16 safetensors, one tokenizer): 4.5M and 0.7M parameters. They answer questions about
the terms of GLOSSARY and know nothing else. See README.md beside this file.

Importing this package loads neither torch nor vLLM.
"""

from pathlib import Path

from .glossary import GLOSSARY, load_glossary, phrasings

_HERE = Path(__file__).resolve().parent
TARGET: Path = _HERE / "target"
DRAFT: Path = _HERE / "draft"

__all__ = ["DRAFT", "GLOSSARY", "TARGET", "load_glossary", "phrasings"]
