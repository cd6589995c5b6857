"""What another recommender would be worth: off-policy estimates, roll-outs, policies."""
