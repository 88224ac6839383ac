"""What the documents say is tried."""
