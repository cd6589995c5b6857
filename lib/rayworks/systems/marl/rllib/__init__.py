"""PPO of team policies on RLlib: module, runner, learner, and connectors to other environments."""
