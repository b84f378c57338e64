"""What requests are decided from: the store's documents and status, compiled and kept current."""
