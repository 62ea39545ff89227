"""How a command runs others' libraries: without their notices and bars, and without waiting in circles."""

from __future__ import annotations

import os


def prepare_libraries() -> None:
    """Silences progress bars and notices of what loads models; errors stay. Call it before torch is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # GNU OpenMP's threads wait for each other by spinning, by default for so long that everything is several times
    # as slow once something else wants a core. A tenth of that is as fast on an idle machine. Read when torch is
    # first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
