"""The synthetic benchmark: people who walk, and how they are seen."""
