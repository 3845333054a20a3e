"""What a comparison may say: measured in turn, with its range, and whether the machine was busy."""
