"""Keeps other libraries' notices and bars out of a command's output."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Silences progress bars and notices of what loads models; errors stay. Call it before they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
