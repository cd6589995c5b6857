"""Which of the prompts that were written are kept: harmless, refused again, fluent, on topic, and not there already."""
