"""What the server is put through: each test produces one fault and counts what was lost."""
