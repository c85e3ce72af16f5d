"""What requests may hold, and how what they hold is read."""
