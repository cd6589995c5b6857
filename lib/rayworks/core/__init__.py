"""What every system shares and what needs neither ray nor torch: configs, seeds, data, run directories, reports."""
