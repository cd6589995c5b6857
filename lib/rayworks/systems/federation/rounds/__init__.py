"""Flower apps: clients, server, strategy, and the rounds between them."""
