"""`flask spacerift …`: what an operator asks."""
