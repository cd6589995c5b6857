"""What is asked, and what counts as a right answer."""
