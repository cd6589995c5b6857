"""Why an item is accepted: do-recursion, attribution, effects."""
