"""The judge of replies: rules, languages, a small classifier, its calibration, and labelled replies."""
