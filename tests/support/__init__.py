"""What several tests stand on: builders of objects, faulty networks, the rules for running async code."""
