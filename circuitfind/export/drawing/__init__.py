"""What is drawn, and where: independent of the format that it is written in."""
