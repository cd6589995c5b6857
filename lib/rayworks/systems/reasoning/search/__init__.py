"""Trees of reasoning steps: statistics, the search over many of them, answers, records and pictures."""
