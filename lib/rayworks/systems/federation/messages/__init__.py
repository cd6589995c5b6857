"""Arrays and numbers as Flower records, and what they weigh."""
