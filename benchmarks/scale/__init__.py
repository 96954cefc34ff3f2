"""What several servers on one stream cost, and what that comes to for more users than fit here."""
