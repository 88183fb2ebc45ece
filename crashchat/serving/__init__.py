"""The server, its page, and what they must withstand."""
