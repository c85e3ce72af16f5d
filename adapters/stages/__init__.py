"""What happens to a stage, from its intake to its publication, and what is done to chains."""
