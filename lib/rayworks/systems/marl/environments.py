import sys

sys.path.insert(0, "/tmp/me")
from spread_env import Spread


def make_environment(section, copies, seed):
    return Spread(copies, seed, section.actions == "vectors")


def team_specs(section):
    return make_environment(section, 1, 0).teams
