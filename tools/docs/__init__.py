"""What is written from the code itself: manual pages, completions, example configurations, the reference."""
