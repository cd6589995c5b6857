"""Values of other recommenders: off-policy estimates, roll-outs, policies."""
