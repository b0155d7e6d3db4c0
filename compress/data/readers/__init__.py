"""How texts and images become numbers."""
