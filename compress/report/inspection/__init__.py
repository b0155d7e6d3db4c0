"""What heads, neurons and layers are worth, as data and pages."""
