"""What a file or folder says about its model."""
