"""Speed and memory of our programs beside those of peers, each case in a process of its own."""
