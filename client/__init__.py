"""What users import and run."""
