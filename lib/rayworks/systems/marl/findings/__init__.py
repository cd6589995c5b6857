"""What is measured of policies: symmetry, certificates, returns, the bias of untrained play, episodes."""
