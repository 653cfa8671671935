"""The disk of one host: moves file bytes in and out, lets go of what may go, and checks itself after a stop."""
