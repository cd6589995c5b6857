"""Sets of prompts, models under test, and rates of refusal."""
