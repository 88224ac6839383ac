"""What vitune measures about itself; each file says how to run it."""
