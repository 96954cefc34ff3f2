"""What the project costs beside others: ``scripts/bench`` (docs/performance.md)."""
