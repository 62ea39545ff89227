"""How a command runs others' libraries: without their notices and bars, and without waiting in circles."""

from __future__ import annotations

import os


def prepare_libraries() -> None:
    """Silences progress bars and notices of what loads models; errors stay. Call it before torch is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that wait for each other by spinning slow everything down, several times over, as soon as anything
    # else wants a core; sleeping instead costs next to nothing. Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
