"""What is learned from trees: pairs of steps, their order, and the arms that are compared."""
