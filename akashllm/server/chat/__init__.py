"""What stands between messages and text: chat templates, and the formats of thinking and tool calls."""
