"""refusal: pseudo-harmful prompts that measure false refusals."""
