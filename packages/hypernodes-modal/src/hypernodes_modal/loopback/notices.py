"""What was asked for and is not done here: said once each, and kept for whoever wants to look."""

from __future__ import annotations

import logging

logger = logging.getLogger("hypernodes_modal.loopback")


class Notices:
    """Collects notices.

    Attributes:
        all: Every notice, in order, each once.
    """

    def __init__(self) -> None:
        self.all: list[str] = []

    def add(self, notice: str) -> None:
        """Say something that a user should know."""
        if notice not in self.all:
            self.all.append(notice)
            logger.warning("loopback: %s", notice)
