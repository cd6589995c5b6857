"""Ray, once for all ten systems: the restartable run, launching and resuming, actor pools, placement, failure classes."""
