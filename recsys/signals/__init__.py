"""Teacher signals: what one expensive teacher pass leaves for many students."""
