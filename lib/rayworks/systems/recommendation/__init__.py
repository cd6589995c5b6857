"""CSRec (arXiv 2409.05872): will a recommended item be accepted, and why."""
