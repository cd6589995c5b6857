"""The registry: each system's name to where its ``SPEC`` is. Alphabetical; a new system adds one line."""

REGISTRY: dict[str, str] = {
    "alignment": "rayworks.systems.alignment:SPEC",
    "augmentation": "rayworks.systems.augmentation:SPEC",
    "difficulty": "rayworks.systems.difficulty:SPEC",
    "federation": "rayworks.systems.federation:SPEC",
    "marl": "rayworks.systems.marl:SPEC",
    "reasoning": "rayworks.systems.reasoning:SPEC",
    "recommendation": "rayworks.systems.recommendation:SPEC",
    "refusal": "rayworks.systems.refusal:SPEC",
    "regulation": "rayworks.systems.regulation:SPEC",
    "supervision": "rayworks.systems.supervision:SPEC",
}
