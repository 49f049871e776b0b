"""What builds, tries and tests cortex; no part of what is installed."""
