"""What answers are worth: metrics of whole splits, their intervals, and tables by class."""
