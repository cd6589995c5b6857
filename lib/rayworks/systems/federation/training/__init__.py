"""Training on one client, and what the server makes of many."""
