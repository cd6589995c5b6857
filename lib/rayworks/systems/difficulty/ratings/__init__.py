"""Ratings from games: Glicko-2, Glicko and Elo."""
