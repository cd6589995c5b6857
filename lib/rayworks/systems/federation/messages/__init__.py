"""Arrays and numbers as Flower records, and their size."""
