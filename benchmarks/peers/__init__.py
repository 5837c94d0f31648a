"""What other tools do with the same rows, each as a script of its own."""
