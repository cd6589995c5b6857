"""Students: stronger models that learn from labels which weaker ones gave."""
