"""From a robot's observation to an action chunk: everything around the network."""
