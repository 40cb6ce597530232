"""Tables: from a file to a matrix and its targets, and from predictions back to a file."""
