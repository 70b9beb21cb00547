"""What is stored and stays true."""
