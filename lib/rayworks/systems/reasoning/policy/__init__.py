"""The small policy that is made here, on two cores, for search to improve."""
