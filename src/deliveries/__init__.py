"""Effects owed to the outside world."""
