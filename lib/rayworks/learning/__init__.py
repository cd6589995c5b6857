"""What learning of any kind needs, whatever the data: gradients of a validation loss, and what each example does to it."""
