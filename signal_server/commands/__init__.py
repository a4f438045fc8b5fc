"""What an operator asks: `flask spacerift …`; and the command that serves, `spacerift`."""
