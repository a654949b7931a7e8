"""From bytes to conversations: every record read, or refused with its place."""
