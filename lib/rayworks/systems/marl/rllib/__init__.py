"""PPO of team policies on RLlib: module, runner, learner, and the connection to environments of others."""
