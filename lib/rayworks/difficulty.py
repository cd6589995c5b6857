"""Difficulties of a board of results in one call.

>>> import rayworks.difficulty
>>> found = rayworks.difficulty.fit("board.csv")  # doctest: +SKIP
>>> found.items, found.notes  # doctest: +SKIP

The whole system is :mod:`rayworks.systems.difficulty`.
"""

from rayworks.systems.difficulty.anchored_board import AnchoredBoard, fit_to_anchors
from rayworks.systems.difficulty.board import BoardFit, fit, read_board

__all__ = ["AnchoredBoard", "BoardFit", "fit", "fit_to_anchors", "read_board"]
