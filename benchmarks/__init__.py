"""The speed and accuracy claims of the README, each a script that prints what it finds with the machine's name."""
