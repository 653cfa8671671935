"""The commands that users type: one module each, over the library; `common` holds what they share."""
