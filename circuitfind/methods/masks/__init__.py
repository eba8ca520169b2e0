"""Methods that learn mask values by gradient descent."""
