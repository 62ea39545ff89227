"""Bad input: each kind gets its own error, and changes nothing."""
